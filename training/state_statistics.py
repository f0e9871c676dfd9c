"""What training saw of the state space: chunks of states in, range and quantiles of each value out."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from training.random_streams import generator_state, set_generator_state

SAMPLE = 20_000
QUANTILES = (0.001, 0.01, 0.25, 0.5, 0.75, 0.99, 0.999)


class StatesSeen:
    """The exact range of all states, and a uniform sample of them for the quantiles (reservoir sampling, Vitter 1985, algorithm R)."""

    def __init__(self, rng: np.random.Generator, state_size: int = 4) -> None:
        self.count = 0
        self.low = np.full(state_size, np.inf, np.float32)
        self.high = np.full(state_size, -np.inf, np.float32)
        self._sample = np.zeros((SAMPLE, state_size), np.float32)
        self._rng = rng

    def add(self, states: NDArray[np.float32]) -> None:
        """Take note of `states`, (n, 4)."""
        np.minimum(self.low, states.min(axis=0), out=self.low)
        np.maximum(self.high, states.max(axis=0), out=self.high)
        order = np.arange(self.count, self.count + len(states))
        places = np.where(order < SAMPLE, order, self._rng.integers(0, order + 1))
        kept = places < SAMPLE
        self._sample[places[kept]] = states[kept]
        self.count += len(states)

    def quantiles(self) -> NDArray[np.float64]:
        """Return `QUANTILES` of each state value, (quantiles, 4)."""
        result: NDArray[np.float64] = np.quantile(
            self._sample[: min(self.count, SAMPLE)].astype(np.float64), QUANTILES, axis=0
        )
        return result

    def summary(self) -> dict[str, Any]:
        """Return range and quantiles as JSON values, by state value; empty while no state was seen."""
        if not self.count:
            return {}
        return {
            "low": self.low.tolist(),
            "high": self.high.tolist(),
            "quantiles": [
                dict(zip(map(str, QUANTILES), column, strict=True))
                for column in self.quantiles().T.tolist()
            ],
        }

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays that the rest depends on, by name."""
        return {"low": self.low, "high": self.high, "sample": self._sample}

    def values(self) -> JsonValue:
        """Return what else the rest depends on."""
        return {"count": self.count, "rng": generator_state(self._rng)}

    def restore(self, arrays: dict[str, NDArray[Any]], values: JsonValue) -> None:
        """Take over what `arrays` and `values` gave."""
        assert isinstance(values, dict)
        assert isinstance(values["count"], int)
        for name, array in self.arrays().items():
            array[...] = arrays[name]
        self.count = values["count"]
        set_generator_state(self._rng, values["rng"])
