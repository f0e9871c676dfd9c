import numpy as np
import pytest

from training.population.selection import score_of


@pytest.mark.parametrize(
    ("rates", "expected"), [([1.0, 1.0], 1.0), ([0.5, 1.0], (0.5 + 0.75) / 2), ([1.0, 0.9], 1.0)]
)
def test_score_is_the_worst_scenario_and_the_mean_beside_the_lqr(
    rates: list[float], expected: float
) -> None:
    assert score_of(np.array([rates]), np.array([1.0, 0.9]))[0] == pytest.approx(expected)
