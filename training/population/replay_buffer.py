"""The replay buffers of K agents, in one set of tensors, with n-step transitions.

Only `terminated` cuts the return: an episode that was truncated ends here, but its last state still
bootstraps.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from training.snapshot import Snapshot
from training.types import BoolArray, Float32Array, Int64Array

STORED = ("states", "actions", "rewards", "discounts")  # attributes of buffer and minibatch


@dataclass(frozen=True)
class Minibatch:
    """Transitions of every agent, in tensors that stay in place, as a captured graph needs it."""

    states: Tensor  # (K, batch, 2, 4) float32: state and bootstrap state, side by side
    actions: Tensor  # (K, batch, 1) int64
    rewards: Tensor  # (K, batch, 1) float32: n-step return
    discounts: Tensor  # (K, batch, 1) float32: γⁿ, 0 where the episode terminated

    @classmethod
    def empty(cls, agents: int, size: int, states: int = 4, device: str = "cpu") -> "Minibatch":
        """Return zeros of the right shapes on the device."""
        return cls(
            torch.zeros(agents, size, 2, states, device=device),
            torch.zeros(agents, size, 1, dtype=torch.int64, device=device),
            torch.zeros(agents, size, 1, device=device),
            torch.zeros(agents, size, 1, device=device),
        )


class ReplayBuffer:
    """The last `capacity` transitions of each of K agents, each of which has `num_envs`."""

    def __init__(
        self,
        agents: int,
        capacity: int,
        num_envs: int,
        *,
        n_step: int,
        gamma: float,
        states: int = 4,
        device: str = "cpu",
    ) -> None:
        self.agents, self.num_envs = agents, num_envs
        self.capacity = capacity - capacity % num_envs
        self.n_step, self.gamma = n_step, gamma
        self.size = 0  # transitions of each agent
        self.position = 0  # row of the next transitions
        self.added = 0  # steps added, of each environment

        self.states = torch.zeros(agents, self.capacity, 2, states, device=device)
        self.actions = torch.zeros(agents, self.capacity, 1, dtype=torch.int64, device=device)
        self.rewards = torch.zeros(agents, self.capacity, 1, device=device)
        self.discounts = torch.zeros(agents, self.capacity, 1, device=device)

        self._window = _Window(n_step, agents * num_envs, states)
        # The first row of each agent, (K, 1), where all rows are counted through.
        self._offsets = torch.arange(agents, device=device).unsqueeze(1) * self.capacity

    def add(
        self,
        states: Float32Array,
        actions: Int64Array,
        rewards: Float32Array,
        next_states: Float32Array,
        terminated: BoolArray,
        truncated: BoolArray,
    ) -> None:
        """Add one step of every environment, agent by agent: arrays (K · num_envs, …).

        `next_states` are those before a reset.
        """
        row = self.added % self.n_step
        window = self._window
        window.states[row], window.next_states[row] = states, next_states
        window.actions[row], window.rewards[row] = actions, rewards
        window.terminated[row], window.ended[row] = terminated, terminated | truncated

        self.added += 1
        if self.added >= self.n_step:
            self._store(self.added % self.n_step)

    def _store(self, oldest: int) -> None:
        """Store the transition that began n steps ago, in row `oldest` of the window.

        It ends after n steps or with its episode, whichever comes first.
        """
        window = self._window
        returns, bootstrap_states, discounts = window.n_step_return(oldest, self.gamma)

        shape = (self.agents, self.num_envs)
        rows = slice(self.position, self.position + self.num_envs)
        states, actions = window.states[oldest], window.actions[oldest]
        self.states[:, rows, 0].copy_(torch.from_numpy(states.reshape(*shape, -1)))
        self.states[:, rows, 1].copy_(torch.from_numpy(bootstrap_states.reshape(*shape, -1)))
        self.actions[:, rows, 0].copy_(torch.from_numpy(actions.reshape(shape)))
        self.rewards[:, rows, 0].copy_(torch.from_numpy(returns.reshape(shape)))
        self.discounts[:, rows, 0].copy_(torch.from_numpy(discounts.reshape(shape)))

        self.position = (self.position + self.num_envs) % self.capacity
        self.size = min(self.size + self.num_envs, self.capacity)

    def sample(self, rng: np.random.Generator, minibatch: Minibatch, mirror: bool = False) -> None:
        """Fill the minibatch, uniformly with replacement, each agent from its own transitions.

        With `mirror` the first half of it is reflected at x = 0: CartPole's left and right are the
        same, so (-s, 1 - a, r, -s′) is a transition of the same plant.
        """
        size = minibatch.actions.shape[1]
        rows = torch.from_numpy(rng.integers(0, self.size, (self.agents, size)))
        rows = rows.to(self._offsets.device).add_(self._offsets).view(-1)

        for name in STORED:
            source, target = getattr(self, name), getattr(minibatch, name)
            torch.index_select(source.flatten(0, 1), 0, rows, out=target.flatten(0, 1))

        if mirror:
            minibatch.states[:, : size // 2].neg_()
            minibatch.actions[:, : size // 2].bitwise_xor_(1)

    def terminal_share(self) -> Float32Array:
        """Return the share of transitions that ended in a termination, (K,)."""
        terminal = self.discounts[:, : self.size] == 0
        share: Float32Array = terminal.float().mean(dim=(1, 2)).cpu().numpy()
        return share

    def snapshot(self) -> Snapshot:
        """Return all transitions, and the steps that are not yet transitions."""
        return Snapshot(
            {name: getattr(self, name)[:, : self.size].cpu().numpy() for name in STORED},
            {"size": self.size, "position": self.position, "added": self.added},
            {"window": self._window.snapshot()},
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Take over the transitions of a snapshot."""
        self.size = snapshot.integer("size")
        self.position = snapshot.integer("position")
        self.added = snapshot.integer("added")
        for name in STORED:
            array = snapshot.arrays[name].copy()
            getattr(self, name)[:, : self.size].copy_(torch.from_numpy(array))
        self._window.restore(snapshot.parts["window"])


class _Window:
    """The last n steps of each of `envs` environments: step t is in row t modulo n."""

    NAMES = ("states", "next_states", "actions", "rewards", "terminated", "ended")

    def __init__(self, n: int, envs: int, states: int) -> None:
        self.states = np.zeros((n, envs, states), np.float32)
        self.next_states = np.zeros((n, envs, states), np.float32)
        self.actions = np.zeros((n, envs), np.int64)
        self.rewards = np.zeros((n, envs), np.float32)
        self.terminated = np.zeros((n, envs), np.bool_)
        self.ended = np.zeros((n, envs), np.bool_)

    def n_step_return(
        self, oldest: int, gamma: float
    ) -> tuple[Float32Array, Float32Array, Float32Array]:
        """Return what follows the step in row `oldest`, for each environment.

        That is the discounted sum of its rewards, (envs,), the state to bootstrap from, (envs, 4),
        and the discount of that state's value, (envs,): 0 where the episode terminated.
        """
        n = len(self.rewards)
        returns, last_states = self.rewards[oldest], self.next_states[oldest]
        terminated, going = self.terminated[oldest], ~self.ended[oldest]
        discounts: Float32Array = np.full(len(returns), gamma, np.float32)

        for step in range(1, n):
            row = (oldest + step) % n
            returns = returns + np.where(going, discounts * self.rewards[row], np.float32(0))
            last_states = np.where(going[:, None], self.next_states[row], last_states)
            terminated = np.where(going, self.terminated[row], terminated)
            discounts = np.where(going, discounts * np.float32(gamma), discounts)
            going = going & ~self.ended[row]

        return returns, last_states, np.where(terminated, np.float32(0), discounts)

    def snapshot(self) -> Snapshot:
        return Snapshot({name: getattr(self, name) for name in self.NAMES})

    def restore(self, snapshot: Snapshot) -> None:
        for name in self.NAMES:
            getattr(self, name)[:] = snapshot.arrays[name]
