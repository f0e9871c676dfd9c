"""Replay memory: transitions in, uniform minibatches out. Knows nothing of networks."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Minibatch:
    """Transitions as columns; `terminal` is 1 where no value follows, else 0."""

    states: NDArray[np.float32]  # (batch, 4)
    actions: NDArray[np.int64]  # (batch,)
    rewards: NDArray[np.float32]  # (batch,)
    next_states: NDArray[np.float32]  # (batch, 4)
    terminal: NDArray[np.float32]  # (batch,)


class ReplayMemory:
    """The last `capacity` transitions, in arrays that are allocated once."""

    def __init__(self, capacity: int, state_size: int = 4) -> None:
        self.capacity = capacity
        self.added = 0
        self._states = np.zeros((capacity, state_size), np.float32)
        self._actions = np.zeros(capacity, np.int64)
        self._rewards = np.zeros(capacity, np.float32)
        self._next_states = np.zeros((capacity, state_size), np.float32)
        self._terminal = np.zeros(capacity, np.float32)

    def __len__(self) -> int:
        return min(self.added, self.capacity)

    def add(
        self,
        state: NDArray[np.float32],
        action: int,
        reward: float,
        next_state: NDArray[np.float32],
        *,
        terminal: bool,
    ) -> None:
        """Store one transition in the place of the oldest. `state` and `next_state` have shape (4,)."""
        place = self.added % self.capacity
        self._states[place] = state
        self._actions[place] = action
        self._rewards[place] = reward
        self._next_states[place] = next_state
        self._terminal[place] = terminal
        self.added += 1

    def sample(self, rng: np.random.Generator, size: int) -> Minibatch:
        """Draw `size` different transitions, each with the same chance. Raises `ValueError` when fewer are stored."""
        if size > len(self):
            raise ValueError(
                f"a minibatch of {size} was asked for, but the memory holds {len(self)} transitions"
            )
        chosen = rng.choice(len(self), size, replace=False)
        return Minibatch(
            self._states[chosen],
            self._actions[chosen],
            self._rewards[chosen],
            self._next_states[chosen],
            self._terminal[chosen],
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the memory's own arrays by name."""
        return {
            "states": self._states,
            "actions": self._actions,
            "rewards": self._rewards,
            "next_states": self._next_states,
            "terminal": self._terminal,
        }

    def restore(self, arrays: dict[str, NDArray[Any]], added: int) -> None:
        """Take over what `arrays` and `added` held."""
        for name, array in self.arrays().items():
            array[...] = arrays[name]
        self.added = added
