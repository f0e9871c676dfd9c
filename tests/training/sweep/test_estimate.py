"""How long a trial takes is told from its first seconds, on whatever machine."""

import math
from collections.abc import Callable

import pytest

from training.recipes import RECIPES, AnyRecipe
from training.sweep import estimate


def clock(step: float) -> Callable[[], float]:
    """Return a clock that is `step` seconds later each time it is read."""
    time = 0.0

    def read() -> float:
        nonlocal time
        time += step
        return time

    return read


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES.keys())
@pytest.mark.parametrize("step", [0.1, 1.0, 10.0], ids=["quick", "slow", "slower"])
def test_a_machine_of_any_speed_has_an_estimate(recipe: AnyRecipe, step: float) -> None:
    seconds = estimate.measure(recipe, clock(step))
    assert math.isfinite(seconds)
    assert seconds > estimate.EVALUATION_SECONDS


def test_a_machine_half_as_fast_takes_twice_as_long() -> None:
    quick, slow = (estimate.measure(RECIPES["quick"], clock(step)) for step in (0.1, 0.2))
    ratio = (slow - estimate.EVALUATION_SECONDS) / (quick - estimate.EVALUATION_SECONDS)
    assert ratio == pytest.approx(2, rel=0.2)
