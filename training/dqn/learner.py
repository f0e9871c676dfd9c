"""One update of deep Q-learning, and the ε-greedy choice of an action."""

import numpy as np
import torch
from torch import Tensor

from training.dqn.replay_buffer import Minibatch
from training.network import DQNetwork
from training.snapshot import Snapshot
from training.types import Array, Float32Array, Int64Array


class Learner:
    """A network and its optimiser."""

    def __init__(self, network: DQNetwork, *, learning_rate: float, gamma: float) -> None:
        self.network = network
        self.gamma = gamma
        self._device = next(network.parameters()).device
        self._optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate, fused=True)

    def update(self, batch: Minibatch) -> None:
        """Take one step of Adam towards the targets r + γ · max Q(s′) · (1 - terminal).

        The target is that of Mnih et al. 2013, "Playing Atari with Deep Reinforcement Learning",
        eq. 2 and 3: from the same network and detached. The Q-value of the action that was not
        taken has no part in the loss.
        """
        states, actions = self._tensor(batch.states), self._tensor(batch.actions)
        rewards, next_states = self._tensor(batch.rewards), self._tensor(batch.next_states)
        continues = 1 - self._tensor(batch.terminal)

        with torch.no_grad():
            next_values = self.network(next_states).max(dim=1).values
            targets = rewards + self.gamma * next_values * continues
        q_taken = self.network(states).gather(1, actions.unsqueeze(1)).squeeze(1)
        loss = torch.nn.functional.mse_loss(q_taken, targets)

        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call] # torch declares no types for it
        self._optimizer.step()

    def snapshot(self) -> Snapshot:
        """Return the weights and the moments of Adam."""
        weights: dict[str, Array] = {
            name: tensor.numpy(force=True) for name, tensor in self.network.state_dict().items()
        }
        moments = {
            str(index): Snapshot({name: tensor.numpy(force=True) for name, tensor in state.items()})
            for index, state in self._optimizer.state_dict()["state"].items()
        }
        return Snapshot(parts={"network": Snapshot(weights), "adam": Snapshot(parts=moments)})

    def restore(self, snapshot: Snapshot) -> None:
        """Take over the weights and the moments of a snapshot."""
        weights = snapshot.parts["network"].arrays
        self.network.load_state_dict(
            {name: torch.from_numpy(array.copy()) for name, array in weights.items()}
        )

        # Before the first update Adam has no moments, and the snapshot no such part.
        adam = snapshot.parts.get("adam", Snapshot())
        moments = {
            int(index): {
                name: torch.from_numpy(array.copy()) for name, array in part.arrays.items()
            }
            for index, part in adam.parts.items()
        }
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": moments, "param_groups": groups})

    def _tensor(self, array: Float32Array | Int64Array) -> Tensor:
        return torch.from_numpy(array).to(self._device)


def epsilon_greedy(q_values: Float32Array, epsilon: float, rng: np.random.Generator) -> int:
    """Return a random action with probability `epsilon`, else the greedy one.

    `q_values` has shape (actions,). At a tie the first action is the greedy one.
    """
    if rng.random() < epsilon:
        return int(rng.integers(len(q_values)))
    return int(q_values.argmax())
