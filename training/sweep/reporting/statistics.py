"""What many trials say together: means, interquartile means, differences, with intervals.

After Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice":
the interquartile mean leaves out the best and the worst quarter, and its 95 % interval is that of a
percentile bootstrap over the trials.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from training.types import Float64Array

DRAWS = 2_000_000  # values drawn for one interval, at most
RESAMPLES = (200, 2_000)  # least and most; many trials need fewer: their intervals are narrow


@dataclass(frozen=True)
class Estimate:
    """A statistic with its 95 % interval, which is none for a single trial."""

    value: float
    low: float | None
    high: float | None

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return _number(self.value)
        return f"{_number(self.value)} [{_number(self.low)}, {_number(self.high)}]"


def mean(values: Sequence[float]) -> Estimate:
    """Return the mean with its interval."""
    return _estimate(values, np.mean)


def interquartile_mean(values: Sequence[float]) -> Estimate:
    """Return the mean of the middle half, with its interval."""
    return _estimate(values, _trimmed)


def difference(values: Sequence[float], others: Sequence[float]) -> Estimate:
    """Return how much larger the mean of one group is than another's, with the interval."""
    one, other = np.asarray(values, np.float64), np.asarray(others, np.float64)
    centre = float(one.mean() - other.mean())
    if min(len(one), len(other)) < 2:
        return Estimate(centre, None, None)
    rng = np.random.default_rng(0)
    differences = _resample(one, np.mean, rng) - _resample(other, np.mean, rng)
    return Estimate(centre, *_percentiles(differences))


def verdict(estimate: Estimate, *, higher_is_better: bool = True) -> str:
    """Say in a word what a difference shows."""
    if estimate.low is None or estimate.high is None:
        return "one trial shows nothing"
    if estimate.low <= 0 <= estimate.high:
        return "no difference is shown"
    return "better" if (estimate.value > 0) is higher_is_better else "worse"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _trimmed(values: Float64Array, axis: int = 0) -> Float64Array:
    trimmed: Float64Array = stats.trim_mean(values, 0.25, axis=axis)
    return trimmed


def _estimate(values: Sequence[float], statistic: Callable[..., Float64Array]) -> Estimate:
    array = np.asarray(values, np.float64)
    centre = float(statistic(array, axis=0))
    if len(array) < 2:
        return Estimate(centre, None, None)
    return Estimate(centre, *_percentiles(_resample(array, statistic, np.random.default_rng(0))))


def _resample(
    values: Float64Array, statistic: Callable[..., Float64Array], rng: np.random.Generator
) -> Float64Array:
    """Return the statistic of resamples, drawn from the values with replacement."""
    least, most = RESAMPLES
    resamples = min(most, max(least, DRAWS // len(values)))
    return statistic(rng.choice(values, (resamples, len(values))), axis=1)


def _percentiles(resamples: Float64Array) -> tuple[float, float]:
    low, high = np.percentile(resamples, (2.5, 97.5))
    return float(low), float(high)
