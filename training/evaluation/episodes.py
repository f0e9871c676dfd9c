"""Greedy episodes of a policy on its plant as it is, and their summary for the manifest."""

from dataclasses import dataclass

import numpy as np

from models.manifest import Evaluation, Plant
from training.envs.cartpole import VectorCartPole, time_limit
from training.envs.plant import STANDARD
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
    plant: Plant = STANDARD,
) -> EpisodeResults:
    """Run greedy episodes in one vector environment, each from its start to its first end.

    Raises `ValueError` for a seed that training may use, or select an agent by.
    """
    check_seed(seed, EVALUATION_SEEDS, "evaluating a policy")
    environment = VectorCartPole(episodes, time_limit(plant), plant)
    environment.reset(seed=seed)
    steps = np.zeros(episodes, np.int64)
    running = np.ones(episodes, np.bool_)
    visited: list[Float32Array] = []
    limit = time_limit(plant)

    while running.any():
        on_stage(f"{episodes:,} greedy episodes", len(visited) / limit)
        states = environment.state.T.astype(np.float32)
        visited.append(states[running])
        terminated, truncated = environment.advance(q_values(states).argmax(axis=1))
        steps += running
        running &= ~(terminated | truncated)
        # A fallen pole stays fallen; its numbers must not overflow.
        environment.state[:, ~running] = 0.0

    return EpisodeResults(steps, np.concatenate(visited), limit)


def summarize(results: EpisodeResults, seed: int = SEED) -> Evaluation:
    """Return mean, minimum and success rate of the episodes, as the manifest holds them."""
    return Evaluation(
        seed=seed,
        episodes=len(results.steps),
        mean=float(results.steps.mean()),
        minimum=int(results.steps.min()),
        success_rate=float((results.steps >= results.limit).mean()),
    )
