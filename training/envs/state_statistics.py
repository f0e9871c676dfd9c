"""Range and quantiles of the states that a training goes through; the manifest holds them."""

from dataclasses import dataclass

import numpy as np

from training.seeding import generator_state, set_generator_state
from training.snapshot import Snapshot
from training.types import Float32Array, Float64Array

SAMPLE_SIZE = 20_000  # states
QUANTILES = (0.001, 0.01, 0.25, 0.5, 0.75, 0.99, 0.999)


@dataclass(frozen=True)
class StateSummary:
    """What training saw of each of the four state values, in their order."""

    minimum: tuple[float, ...]
    maximum: tuple[float, ...]
    quantiles: tuple[dict[str, float], ...]  # by the fraction, such as "0.25"


class StateStatistics:
    """The exact range of all states, and a uniform sample of them for the quantiles.

    The sample is kept by reservoir sampling (Vitter 1985, "Random Sampling with a Reservoir",
    algorithm R): each state so far is in it with the same probability.
    """

    def __init__(self, rng: np.random.Generator, state_size: int = 4) -> None:
        self.count = 0
        self.minimum = np.full(state_size, np.inf, np.float32)
        self.maximum = np.full(state_size, -np.inf, np.float32)
        self._sample = np.zeros((SAMPLE_SIZE, state_size), np.float32)
        self._rng = rng

    def update(self, states: Float32Array) -> None:
        """Take `states`, (n, 4), into account."""
        np.minimum(self.minimum, states.min(axis=0), out=self.minimum)
        np.maximum(self.maximum, states.max(axis=0), out=self.maximum)

        order = np.arange(self.count, self.count + len(states))
        rows = np.where(order < SAMPLE_SIZE, order, self._rng.integers(0, order + 1))
        sampled = rows < SAMPLE_SIZE
        self._sample[rows[sampled]] = states[sampled]
        self.count += len(states)

    def quantiles(self) -> Float64Array:
        """Return `QUANTILES` of each state value, (quantiles, 4)."""
        sample = self._sample[: min(self.count, SAMPLE_SIZE)].astype(np.float64)
        quantiles: Float64Array = np.quantile(sample, QUANTILES, axis=0)
        return quantiles

    def summary(self) -> StateSummary | None:
        """Return range and quantiles; none while there was no state."""
        if not self.count:
            return None
        return StateSummary(
            tuple(self.minimum.tolist()),
            tuple(self.maximum.tolist()),
            tuple(
                dict(zip(map(str, QUANTILES), values, strict=True))
                for values in self.quantiles().T.tolist()
            ),
        )

    def snapshot(self) -> Snapshot:
        """Return all that the next update depends on."""
        return Snapshot(
            {"minimum": self.minimum, "maximum": self.maximum, "sample": self._sample},
            {"count": self.count, "rng": generator_state(self._rng)},
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Take over the state of a snapshot."""
        self.minimum[...] = snapshot.arrays["minimum"]
        self.maximum[...] = snapshot.arrays["maximum"]
        self._sample[...] = snapshot.arrays["sample"]
        self.count = snapshot.integer("count")
        set_generator_state(self._rng, snapshot.values["rng"])
