"""Deep Q-learning: a minibatch in, one update of the network out. Knows nothing of environments or schedules."""

import numpy as np
import torch
from torch import Tensor

from training.network import DQNetwork, Float32Array
from training.dqn.replay_buffer import Minibatch


class Learner:
    """A network and its optimiser."""

    def __init__(self, network: DQNetwork, *, learning_rate: float, discount: float) -> None:
        self.network = network
        self.discount = discount
        self.device = next(network.parameters()).device
        self.optimiser = torch.optim.Adam(network.parameters(), lr=learning_rate, fused=True)

    def update(self, batch: Minibatch) -> None:
        """Move Q(s, a) of the actions taken towards r + γ · max Q(s′) · (1 − terminal), by one step of Adam.

        The target is that of Mnih et al. 2013, "Playing Atari with Deep Reinforcement Learning", eq. 2 and 3: from the same network
        and detached. The other action's Q-value has no part in the loss.
        """
        states, actions = self._tensor(batch.states), self._tensor(batch.actions)
        rewards, next_states = self._tensor(batch.rewards), self._tensor(batch.next_states)
        continues = 1 - self._tensor(batch.terminal)
        with torch.no_grad():
            targets = (
                rewards + self.discount * self.network(next_states).max(dim=1).values * continues
            )
        q_taken = self.network(states).gather(1, actions.unsqueeze(1)).squeeze(1)
        loss = torch.nn.functional.mse_loss(q_taken, targets)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call] # torch declares no types for it
        self.optimiser.step()

    def _tensor(
        self, array: Float32Array | np.ndarray[tuple[int, ...], np.dtype[np.int64]]
    ) -> Tensor:
        return torch.from_numpy(array).to(self.device)


def act(q_values: Float32Array, epsilon: float, rng: np.random.Generator) -> int:
    """Return an ε-greedy action: random with probability `epsilon`, else the first with the highest of `q_values`, (actions,)."""
    if rng.random() < epsilon:
        return int(rng.integers(len(q_values)))
    return int(q_values.argmax())
