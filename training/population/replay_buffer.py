"""Replay memory of a population: steps in, uniform minibatches of n-step transitions out. Knows nothing of networks.

Only `terminated` cuts the return: an episode that was truncated ends here, but its last state still bootstraps.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from training.population.q_networks import Minibatch

Float32Array = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


class PopulationMemory:
    """The last `capacity` transitions of each of K agents, each of which steps `environments` environments."""

    def __init__(
        self,
        agents: int,
        capacity: int,
        environments: int,
        *,
        n_step: int,
        gamma: float,
        states: int = 4,
        device: str = "cpu",
    ) -> None:
        self.agents, self.environments = agents, environments
        self.capacity = capacity - capacity % environments
        self.n_step, self.gamma = n_step, gamma
        self.size = 0  # transitions of each agent
        self.position = 0  # where the next ones go
        self.added = 0  # steps added, of each environment
        self.states = torch.zeros(agents, self.capacity, 2, states, device=device)
        self.actions = torch.zeros(agents, self.capacity, 1, dtype=torch.int64, device=device)
        self.rewards = torch.zeros(agents, self.capacity, 1, device=device)
        self.discounts = torch.zeros(agents, self.capacity, 1, device=device)
        n = agents * environments
        # The last n steps of every environment, step t in row t modulo n.
        self._window: dict[str, npt.NDArray[Any]] = {
            "window_states": np.zeros((n_step, n, states), np.float32),
            "window_next_states": np.zeros((n_step, n, states), np.float32),
            "window_actions": np.zeros((n_step, n), np.int64),
            "window_rewards": np.zeros((n_step, n), np.float32),
            "window_terminated": np.zeros((n_step, n), np.bool_),
            "window_ended": np.zeros((n_step, n), np.bool_),
        }
        self._first = torch.arange(agents, device=device).unsqueeze(1) * self.capacity

    def add(
        self,
        states: Float32Array,
        actions: Int64Array,
        rewards: Float32Array,
        next_states: Float32Array,
        terminated: BoolArray,
        truncated: BoolArray,
    ) -> None:
        """One step of every environment, agent by agent: arrays (K · environments, …); next_states are those before a reset."""
        row = self.added % self.n_step
        ended = terminated | truncated
        for name, values in zip(
            self._window, (states, next_states, actions, rewards, terminated, ended), strict=True
        ):
            self._window[name][row] = values
        self.added += 1
        if self.added >= self.n_step:
            self._store(self.added % self.n_step)

    def _store(self, oldest: int) -> None:
        """Store the transition that began n steps ago: it ends after n steps or with its episode, whichever comes first."""
        states, next_states, actions, rewards, terminated, ended = self._window.values()
        returns, last, cut, going = (
            rewards[oldest],
            next_states[oldest],
            terminated[oldest],
            ~ended[oldest],
        )
        discounts = np.full(len(returns), self.gamma, np.float32)
        for step in range(1, self.n_step):
            row = (oldest + step) % self.n_step
            returns = returns + np.where(going, discounts * rewards[row], np.float32(0))
            last = np.where(going[:, None], next_states[row], last)
            cut = np.where(going, terminated[row], cut)
            discounts = np.where(going, discounts * np.float32(self.gamma), discounts)
            going = going & ~ended[row]
        discounts = np.where(cut, np.float32(0), discounts)

        shape = (self.agents, self.environments)
        where = slice(self.position, self.position + self.environments)
        self.states[:, where, 0].copy_(torch.from_numpy(states[oldest].reshape(*shape, -1)))
        self.states[:, where, 1].copy_(torch.from_numpy(last.reshape(*shape, -1)))
        self.actions[:, where, 0].copy_(torch.from_numpy(actions[oldest].reshape(shape)))
        self.rewards[:, where, 0].copy_(torch.from_numpy(returns.reshape(shape)))
        self.discounts[:, where, 0].copy_(torch.from_numpy(discounts.reshape(shape)))
        self.position = (self.position + self.environments) % self.capacity
        self.size = min(self.size + self.environments, self.capacity)

    def sample(self, rng: np.random.Generator, minibatch: Minibatch, mirror: bool = False) -> None:
        """Fill the minibatch, uniformly with replacement, each agent from its own memory.

        With `mirror` its first half is seen in a mirror: CartPole's left and right are the same, so (−s, 1 − a, r, −s′) is a
        transition of the same plant (cart and pole reflected at x = 0).
        """
        size = minibatch.actions.shape[1]
        index = torch.from_numpy(rng.integers(0, self.size, (self.agents, size))).to(
            self._first.device
        )
        index = index.add_(self._first).view(-1)
        for name in ("states", "actions", "rewards", "discounts"):
            source, to = getattr(self, name), getattr(minibatch, name)
            torch.index_select(source.flatten(0, 1), 0, index, out=to.flatten(0, 1))
        if mirror:
            minibatch.states[:, : size // 2].neg_()
            minibatch.actions[:, : size // 2].bitwise_xor_(1)

    def terminal_share(self) -> Float32Array:
        """Share of transitions that ended in a termination, of each agent (K,)."""
        share: Float32Array = (
            (self.discounts[:, : self.size] == 0).float().mean(dim=(1, 2)).cpu().numpy()
        )
        return share

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Everything stored so far, and the steps that are not yet transitions."""
        stored = {
            name: getattr(self, name)[:, : self.size].cpu().numpy()
            for name in ("states", "actions", "rewards", "discounts")
        }
        return {**stored, **self._window}

    def counters(self) -> dict[str, int]:
        """Where the next transition goes and how many there are."""
        return {"size": self.size, "position": self.position, "added": self.added}

    def restore(self, arrays: dict[str, npt.NDArray[Any]], counters: dict[str, int]) -> None:
        """Take over what `arrays` and `counters` gave."""
        self.size, self.position, self.added = (
            counters["size"],
            counters["position"],
            counters["added"],
        )
        for name in ("states", "actions", "rewards", "discounts"):
            getattr(self, name)[:, : self.size].copy_(torch.from_numpy(arrays[name].copy()))
        for name, values in self._window.items():
            values[:] = arrays[name]
