"""Random streams: where a NumPy generator stands, to JSON and back."""

import numpy as np
from pydantic import JsonValue


def generator_state(rng: np.random.Generator) -> JsonValue:
    """Return where a random stream stands."""
    state: JsonValue = dict(rng.bit_generator.state)
    return state


def set_generator_state(rng: np.random.Generator, state: JsonValue) -> None:
    """Put a random stream back to where it stood."""
    assert isinstance(state, dict)
    rng.bit_generator.state = state
