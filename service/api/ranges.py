"""Refusing states outside what training saw, where a caller or the service's operator asks for it.

Without that they are answered, and their values' names are told.
"""

from collections.abc import Iterator, Sequence
from math import radians
from typing import NamedTuple

from models.manifest import StateValue
from service.inference.policy import Policy, State

STRICT = "strict"  # field of a request, and parameter of one of the Open Inference Protocol


class OutOfRangeValue(NamedTuple):
    """A value of a state outside what training saw."""

    row: int  # of the state in its request
    place: int  # of the value in its state
    detail: str  # what is wrong, for the caller


def values_out_of_range(
    policy: Policy, states: Sequence[State], out_of_range: Sequence[Sequence[str]]
) -> Iterator[OutOfRangeValue]:
    """Give each value whose name is in its row of `out_of_range`."""
    described = list(enumerate(policy.bundle.manifest.state))
    for row, (state, names) in enumerate(zip(states, out_of_range, strict=True)):
        for place, value in described if names else ():
            if value.name in names:
                yield OutOfRangeValue(row, place, _detail(value, state[place]))


def _detail(value: StateValue, number: float) -> str:
    hint = ""
    if value.unit.startswith("rad") and (
        value.training_min <= radians(number) <= value.training_max
    ):
        hint = f"; {number:.7g} degrees would be {radians(number):.4g}"
    return (
        f"{value.name} is {number:.7g} {value.unit}, but training saw {value.training_min:.7g} to"
        f" {value.training_max:.7g}{hint}"
    )
