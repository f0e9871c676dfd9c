"""Types of arrays and functions that all of training shares."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]
Int64Array = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

QFunction = Callable[[Float32Array], Float32Array]  # states (n, 4) → Q-values (n, 2)
Controller = Callable[[Float32Array], Int64Array]  # states (n, 4) → actions (n,)
OnStage = Callable[[str, float], None]  # what is being done, and the share of it that is done


def no_stage(stage: str, done: float) -> None:
    """Show nobody what is being done."""
