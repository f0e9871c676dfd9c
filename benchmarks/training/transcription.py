"""The peer: the tutorial's loop, written down plainly; its facts are in docs/recipes.md."""

import random
import time
from collections import deque

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

Transition = tuple[NDArray[np.float32], int, float, NDArray[np.float32], bool]


class Agent:
    """A network, a deque of transitions and an ε."""

    def __init__(self) -> None:
        self.network = nn.Sequential(
            nn.Linear(4, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 2)
        )
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=0.0025)
        self.memory: deque[Transition] = deque(maxlen=2_000)
        self.epsilon = 1.0

    def act(self, state: NDArray[np.float32]) -> int:
        """Return an ε-greedy action."""
        if random.random() < self.epsilon:  # noqa: S311 - exploration, not cryptography
            return random.randrange(2)  # noqa: S311 - as above
        with torch.no_grad():
            return int(self.network(torch.from_numpy(state).unsqueeze(0)).argmax())

    def learn(self) -> None:
        """Take one optimiser step on a minibatch of 64."""
        if len(self.memory) <= 64:
            return
        states, actions, rewards, next_states, dones = zip(
            *random.sample(self.memory, 64), strict=True
        )
        with torch.no_grad():
            best = self.network(torch.from_numpy(np.array(next_states))).max(dim=1).values
        targets = torch.tensor(rewards) + 0.99 * best * (
            1 - torch.tensor(dones, dtype=torch.float32)
        )
        taken = (
            self.network(torch.from_numpy(np.array(states)))
            .gather(1, torch.tensor(actions).unsqueeze(1))
            .squeeze(1)
        )
        loss = nn.functional.mse_loss(taken, targets)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call] # torch declares no types for it
        self.optimiser.step()


def steps_per_second(seed: int, steps: int) -> float:
    """Train from `seed` for `steps` environment steps; return their number per second."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    random.seed(seed)
    environment = gym.make("CartPole-v1")
    environment.reset(seed=seed)
    agent = Agent()
    taken = 0
    started = time.perf_counter()
    while taken < steps:
        state, _ = environment.reset()
        score, done = 0.0, False
        while not done:
            action = agent.act(state)
            next_state, reward, terminated, truncated, _ = environment.step(action)
            done = terminated or truncated
            gained = -10.0 if done and score != 499 else float(reward)
            agent.memory.append((state, action, gained, next_state, done))
            score += gained
            state = next_state
            taken += 1
            if taken % 4 == 0:
                agent.learn()
        agent.epsilon = max(0.001, agent.epsilon * 0.9995)
    return taken / (time.perf_counter() - started)
