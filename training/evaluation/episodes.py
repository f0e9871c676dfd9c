"""Greedy episodes of a policy on the nominal plant, and their summary for the manifest."""

from dataclasses import dataclass

import gymnasium as gym
import numpy as np

from models.manifest import Evaluation
from training.envs.cartpole import ENVIRONMENT, time_limit
from training.seeding import EVALUATION_SEEDS, check_seed
from training.types import Float32Array, Int64Array, OnStage, QFunction, no_stage

EPISODES = 1_000  # 100 successes in 100 would only bound the failure rate at about 3 %
SEED = EVALUATION_SEEDS.start


@dataclass(frozen=True)
class EpisodeResults:
    """How many steps each greedy episode lasted, and the states that they went through."""

    steps: Int64Array  # (episodes,)
    states: Float32Array  # (steps of all episodes, 4)
    limit: int  # steps after which an episode is truncated


def run_episodes(
    q_values: QFunction,
    *,
    episodes: int = EPISODES,
    seed: int = SEED,
    on_stage: OnStage = no_stage,
) -> EpisodeResults:
    """Run greedy episodes in one vector environment, each from its start to its first end.

    Raises `ValueError` for a seed that training may use, or select an agent by.
    """
    check_seed(seed, EVALUATION_SEEDS, "evaluating a policy")
    environment = gym.make_vec(
        ENVIRONMENT, num_envs=episodes, vectorization_mode="vector_entry_point"
    )
    states, _ = environment.reset(seed=seed)
    steps = np.zeros(episodes, np.int64)
    running = np.ones(episodes, np.bool_)
    visited = []

    while running.any():
        on_stage(f"{episodes:,} greedy episodes", len(visited) / time_limit())
        visited.append(states[running])
        actions = q_values(states).argmax(axis=1)
        states, _, terminated, truncated, _ = environment.step(actions)
        steps += running
        # An episode counts once: the vector environment starts the next by itself.
        running &= ~(terminated | truncated)

    environment.close()
    return EpisodeResults(steps, np.concatenate(visited), time_limit())


def summarize(results: EpisodeResults, seed: int = SEED) -> Evaluation:
    """Return mean, minimum and success rate of the episodes, as the manifest holds them."""
    return Evaluation(
        seed=seed,
        episodes=len(results.steps),
        mean=float(results.steps.mean()),
        minimum=int(results.steps.min()),
        success_rate=float((results.steps >= results.limit).mean()),
    )
