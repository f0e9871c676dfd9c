import numpy as np
import pytest

from training.population.validation import score_of


@pytest.mark.parametrize(
    ("rates", "expected"),
    [([1.0, 1.0], 1.0), ([0.5, 1.0], 1 - (0.5 + 0.25) / 2), ([1.0, 0.9], 1.0)],
)
def test_score_falls_by_the_largest_shortfall_and_the_mean_one(
    rates: list[float], expected: float
) -> None:
    assert score_of(np.array([rates]), np.array([1.0, 0.9]))[0] == pytest.approx(expected)
