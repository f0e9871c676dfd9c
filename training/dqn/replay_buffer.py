"""The replay buffer of one agent."""

from dataclasses import dataclass

import numpy as np

from training.snapshot import Snapshot
from training.types import Array, Float32Array, Int64Array


@dataclass(frozen=True)
class Minibatch:
    """Transitions, one a row in each array."""

    states: Float32Array  # (batch, 4)
    actions: Int64Array  # (batch,)
    rewards: Float32Array  # (batch,)
    next_states: Float32Array  # (batch, 4)
    terminal: Float32Array  # (batch,): 1 where no value follows, else 0


class ReplayBuffer:
    """The last `capacity` transitions, in arrays that are allocated once."""

    def __init__(self, capacity: int, state_size: int = 4) -> None:
        self.capacity = capacity
        self.added = 0  # transitions so far, those that were overwritten included
        self._states = np.zeros((capacity, state_size), np.float32)
        self._actions = np.zeros(capacity, np.int64)
        self._rewards = np.zeros(capacity, np.float32)
        self._next_states = np.zeros((capacity, state_size), np.float32)
        self._terminal = np.zeros(capacity, np.float32)

    def __len__(self) -> int:
        return min(self.added, self.capacity)

    def add(
        self,
        state: Float32Array,
        action: int,
        reward: float,
        next_state: Float32Array,
        *,
        terminal: bool,
    ) -> None:
        """Store one transition in the place of the oldest; the states have shape (4,)."""
        row = self.added % self.capacity
        self._states[row] = state
        self._actions[row] = action
        self._rewards[row] = reward
        self._next_states[row] = next_state
        self._terminal[row] = terminal
        self.added += 1

    def sample(self, rng: np.random.Generator, size: int) -> Minibatch:
        """Draw `size` different transitions, each with the same chance.

        Raises `ValueError` when fewer are stored.
        """
        if size > len(self):
            raise ValueError(
                f"a minibatch of {size} was asked for, but the buffer holds {len(self)} transitions"
            )
        rows = rng.choice(len(self), size, replace=False)
        return Minibatch(
            self._states[rows],
            self._actions[rows],
            self._rewards[rows],
            self._next_states[rows],
            self._terminal[rows],
        )

    def snapshot(self) -> Snapshot:
        """Return all transitions."""
        return Snapshot(self._arrays(), {"added": self.added})

    def restore(self, snapshot: Snapshot) -> None:
        """Take over the transitions of a snapshot."""
        for name, array in self._arrays().items():
            array[...] = snapshot.arrays[name]
        self.added = snapshot.integer("added")

    def _arrays(self) -> dict[str, Array]:
        return {
            "states": self._states,
            "actions": self._actions,
            "rewards": self._rewards,
            "next_states": self._next_states,
            "terminal": self._terminal,
        }
