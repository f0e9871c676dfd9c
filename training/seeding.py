"""Seeds and random streams.

Every purpose has seeds of its own, so that no policy is evaluated on episodes that it has seen in
training or was selected by.
"""

import numpy as np
from pydantic import JsonValue

TRAINING_SEEDS = range(2**31)
VALIDATION_SEEDS = range(2**31, 2**31 + 2**30)  # what training selects the best agent by
EVALUATION_SEEDS = range(2**31 + 2**30, 2**32)  # what an exported file is evaluated on


def check_seed(seed: int, allowed: range, purpose: str) -> int:
    """Return the seed. Raises `ValueError` when it is reserved for another purpose."""
    if seed not in allowed:
        raise ValueError(
            f"seed: {seed} is not one for {purpose};"
            f" those lie in {allowed.start} … {allowed.stop - 1}"
        )
    return seed


def generator_state(rng: np.random.Generator) -> JsonValue:
    """Return the state of a random stream as JSON values."""
    state: JsonValue = dict(rng.bit_generator.state)
    return state


def set_generator_state(rng: np.random.Generator, state: JsonValue) -> None:
    """Put a random stream into a state that `generator_state` returned."""
    assert isinstance(state, dict)
    rng.bit_generator.state = state
