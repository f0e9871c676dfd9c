"""Reads states: any sequence or array of four numbers becomes a tuple of four floats."""

import contextlib
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from upright_client.text import describe

STATE_SIZE = 4
MOST_SECONDS = 1e9  # that an operating system can wait for
LONGEST_DEADLINE = 10.0  # seconds; whoever gives more means milliseconds
ACTIONS = (0, 1)  # that a fallback may give: left and right
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
    that are not finite as 32-bit floats: whatever the value is, and nothing else.
    """
    values = state if type(state) in (tuple, list) else _unpack(state)
    if len(values) != STATE_SIZE:  # type: ignore[arg-type] # a tuple or a list
        raise ValueError(f"a state holds {STATE_SIZE} numbers, not {describe(state)}")

    numbers = tuple(
        [
            value if type(value) is float else _number(value, state)
            for value in values  # type: ignore[union-attr] # a tuple or a list
        ]
    )
    for number in numbers:
        if not -FLOAT32_OVERFLOW < number < FLOAT32_OVERFLOW:  # false for NaN too
            raise ValueError(
                f"a state holds numbers that are finite as 32-bit floats, not {number!r}: "
                f"{describe(state)}"
            )
    return numbers


def check_states(states: Iterable[State]) -> list[tuple[float, ...]]:
    """Return the numbers of several states. Raises as `check_state` does."""
    if not isinstance(states, (str, bytes, bytearray, Mapping)):
        try:
            rows = list(states)
        except Exception as error:
            raise TypeError(
                f"states are a sequence of states or an array of shape (batch, {STATE_SIZE}), "
                f"not {describe(states)}"
            ) from error
        return [check_state(row) for row in rows]
    raise TypeError(f"states are a sequence of states, not {describe(states)}")


def check_action(action: object) -> int:
    """Return a fallback's action.

    Raises `TypeError` where it is no whole number, and `ValueError` where it is no action.
    """
    number: int | None = None
    if not isinstance(action, bool):
        with contextlib.suppress(TypeError):
            number = operator.index(action)  # type: ignore[arg-type] # or it raises TypeError
    if number is None:
        raise TypeError(f"a fallback gives an action, a whole number, not {describe(action)}")
    if number not in ACTIONS:
        raise ValueError(f"a fallback gives an action, 0 (left) or 1 (right), not {number}")
    return number


def check_seconds(name: str, seconds: object) -> float:
    """Return a time in seconds.

    Raises `TypeError` for no number, `ValueError` for one that is no time.
    """
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise TypeError(f"{name} is a number of seconds, not {describe(seconds)}")
    if not 0 < seconds < MOST_SECONDS:
        raise ValueError(f"{name} is a number of seconds above 0, not {describe(seconds)}")
    return float(seconds)


def check_deadline(seconds: object) -> float:
    """Return a deadline in seconds.

    Raises `TypeError` for no number, `ValueError` for one that is no time or too long to be meant.
    """
    deadline = check_seconds("deadline", seconds)
    if deadline > LONGEST_DEADLINE:
        raise ValueError(
            f"deadline is in seconds, at most {LONGEST_DEADLINE:g}: {deadline:g} ms are"
            f" {deadline / 1e3:g}"
        )
    return deadline


def _unpack(state: State) -> list[object]:
    """Return the values of a sequence or an array. Raises `TypeError` for anything else."""
    expected = f"a state is a sequence or an array of {STATE_SIZE} numbers"
    try:
        values = state.tolist() if hasattr(state, "tolist") else state
        if isinstance(values, Sequence) and not isinstance(state, (str, bytes, bytearray)):
            return list(values)
    except Exception as error:
        raise TypeError(f"{expected}, not {describe(state)}") from error
    raise TypeError(f"{expected}, not {describe(state)}")


def _number(value: object, state: State) -> float:
    """Return a value that is a number as a float."""
    try:
        if _is_number(value):
            return float(value)  # type: ignore[arg-type] # it has __float__ or __index__
    except OverflowError as error:
        raise ValueError(
            "a state holds numbers that are finite as 32-bit floats, not one beyond all floats"
        ) from error
    except Exception as error:
        raise TypeError(f"a state holds numbers, not {describe(value)}") from error
    raise TypeError(f"a state holds numbers, not {describe(value)}: {describe(state)}")


def _is_number(value: object) -> bool:
    """Return whether a value is one real number, of Python or of an array library."""
    if isinstance(value, (bool, complex)) or getattr(value, "shape", ()) != ():
        return False
    kind = str(getattr(value, "dtype", ""))
    if "bool" in kind or "complex" in kind:
        return False
    return hasattr(value, "__float__") or hasattr(value, "__index__")
