import numpy as np
import pytest
from scipy import stats

from training.sweep.reporting.statistics import difference, interquartile_mean, mean, verdict


def test_the_interquartile_mean_leaves_out_the_best_and_the_worst_quarter() -> None:
    assert interquartile_mean([0, 0, 3, 5, 6, 7, 100, 100]).value == (3 + 5 + 6 + 7) / 4


def test_intervals_are_those_of_a_percentile_bootstrap() -> None:
    values = np.random.default_rng(3).normal(10, 2, 40)
    reference = stats.bootstrap(
        (values,), np.mean, method="percentile", rng=np.random.default_rng(5)
    ).confidence_interval
    estimate = mean(values.tolist())
    assert estimate.low == pytest.approx(reference.low, abs=0.1)
    assert estimate.high == pytest.approx(reference.high, abs=0.1)
    assert estimate == mean(values.tolist())  # the same figures at each report


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    estimates = [mean(rng.normal(0, 1, 30).tolist()) for _ in range(200)]
    holding = sum(
        each.low <= 0 <= each.high
        for each in estimates
        if each.low is not None and each.high is not None
    )
    assert holding / 200 == pytest.approx(0.95, abs=0.05)


def test_a_single_trial_has_no_interval() -> None:
    assert str(mean([0.5])) == "0.5"
    assert verdict(difference([1.0], [0.0])) == "one trial shows nothing"


@pytest.mark.parametrize(
    ("values", "others", "word"),
    [
        ([1.0, 1.1, 1.2, 1.1], [0.0, 0.1, 0.2, 0.1], "better"),
        ([0.0, 0.1, 0.2, 0.1], [1.0, 1.1, 1.2, 1.1], "worse"),
        ([0.0, 1.0, 0.0, 1.0], [1.0, 0.0, 1.0, 0.0], "no difference is shown"),
    ],
)
def test_a_difference_is_told_only_where_its_interval_leaves_out_zero(
    values: list[float], others: list[float], word: str
) -> None:
    assert verdict(difference(values, others)) == word
