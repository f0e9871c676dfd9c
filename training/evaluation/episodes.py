"""Evaluation: a policy in, the scores of greedy episodes out. Knows nothing of how the policy was learned or is stored."""

from collections.abc import Callable
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from models.manifest import Evaluation
from training import seeding as seeds
from training.trainer import ENVIRONMENT

EPISODES = 1_000  # 100 successes of 100 would only bound the failure rate at about 3 %
SEED = seeds.EXAM.start

QFunction = Callable[[NDArray[np.float32]], NDArray[np.float32]]  # states (n, 4) → Q-values (n, 2)


@dataclass(frozen=True)
class Played:
    """Greedy episodes: the number of steps that each lasted, and the states they went through."""

    steps: NDArray[np.int64]  # (episodes,)
    states: NDArray[np.float32]  # (steps of all episodes, 4)
    limit: int  # steps


def play(q_values: QFunction, *, episodes: int = EPISODES, seed: int = SEED) -> Played:
    """Play greedy episodes side by side in one vector environment, each from its start to its first end.

    Raises `ValueError` for a seed that training may use, or select by.
    """
    seeds.check(seed, seeds.EXAM, "judging a policy")
    environment = gym.make_vec(
        ENVIRONMENT, num_envs=episodes, vectorization_mode="vector_entry_point"
    )
    assert environment.spec is not None
    limit = environment.spec.max_episode_steps
    assert limit is not None
    states, _ = environment.reset(seed=seed)
    steps = np.zeros(episodes, np.int64)
    playing = np.ones(episodes, np.bool_)
    visited = []
    while playing.any():
        visited.append(states[playing])
        actions = q_values(states).argmax(axis=1)
        states, _, terminated, truncated, _ = environment.step(actions)
        steps += playing
        # An episode counts once: the vector environment starts the next by itself.
        playing &= ~(terminated | truncated)
    environment.close()
    return Played(steps, np.concatenate(visited), limit)


def evaluation(played: Played, seed: int = SEED) -> Evaluation:
    """Sum up the episodes as the manifest holds them."""
    return Evaluation(
        seed=seed,
        episodes=len(played.steps),
        mean=float(played.steps.mean()),
        minimum=int(played.steps.min()),
        success_rate=float((played.steps >= played.limit).mean()),
    )
