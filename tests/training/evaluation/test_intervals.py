"""Success rates stand with Wilson's interval."""

import pytest
from scipy.stats import binomtest

from training.evaluation.intervals import wilson, with_interval


@pytest.mark.parametrize(("successes", "episodes"), [(400, 400), (392, 400), (0, 10), (99, 100)])
def test_the_interval_is_wilsons(successes: int, episodes: int) -> None:
    expected = binomtest(successes, episodes).proportion_ci(method="wilson")
    assert wilson(successes / episodes, episodes) == pytest.approx((expected.low, expected.high))


def test_a_rate_is_shown_with_its_interval() -> None:
    assert with_interval(0.98, 400) == "0.98 [0.961, 0.990]"
