"""Reads states: any sequence or array of four numbers becomes a tuple of four floats."""

from collections.abc import Sequence
from typing import Protocol

STATE_SIZE = 4
# From here on a number rounds to infinity as a 32-bit float: (2 - 2⁻²⁴) · 2¹²⁷ (IEEE 754).
FLOAT32_OVERFLOW = 3.4028235677973366e38


class Array(Protocol):
    """A NumPy array, or what looks like one."""

    def tolist(self) -> object:
        """Return the numbers as Python's own."""


State = Sequence[float] | Array


def check_state(state: State) -> tuple[float, ...]:
    """Return the four numbers of a state.

    Raises `TypeError` for what are no numbers, `ValueError` for a wrong count and for numbers
    that are not finite as 32-bit floats.
    """
    values = state if isinstance(state, (tuple, list)) else _unpack(state)
    if len(values) != STATE_SIZE:
        raise ValueError(f"a state holds {STATE_SIZE} numbers, not {len(values)}: {state!r}")

    numbers = tuple([value if type(value) is float else _number(value, state) for value in values])
    for number in numbers:
        if not -FLOAT32_OVERFLOW < number < FLOAT32_OVERFLOW:  # false for NaN too
            raise ValueError(
                f"a state holds numbers that are finite as 32-bit floats, not {number!r}: {state!r}"
            )
    return numbers


def check_action(action: object) -> int:
    """Return a fallback's action. Raises `TypeError` where it is no whole number."""
    if isinstance(action, bool) or not hasattr(action, "__index__"):
        raise TypeError(f"a fallback gives an action, a whole number, not {action!r}")
    return action.__index__()  # type: ignore[no-any-return] # it has one, and that returns int


def _unpack(state: State) -> list[object]:
    values = state if isinstance(state, Sequence) else state.tolist()
    if isinstance(values, (str, bytes)) or not isinstance(values, Sequence):
        raise TypeError(f"a state is a sequence or an array of {STATE_SIZE} numbers, not {state!r}")
    return list(values)


def _number(value: object, state: State) -> float:
    if isinstance(value, bool) or not (hasattr(value, "__float__") or hasattr(value, "__index__")):
        raise TypeError(f"a state holds numbers, not {value!r}: {state!r}")
    try:
        return float(value)  # type: ignore[arg-type] # it has __float__ or __index__
    except OverflowError as error:
        raise ValueError(
            f"a state holds numbers that are finite as 32-bit floats, not {value!r}"
        ) from error
