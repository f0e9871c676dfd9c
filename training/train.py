"""The training loop of the baseline recipe: a recipe and a seed in, a trained network and its history out."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch

from training.dqn import Learner, act
from training.network import Actor, DQNetwork
from training.recipe import SEED_LIMIT, Recipe
from training.replay import ReplayMemory
from training.states_seen import StatesSeen

ENVIRONMENT = "CartPole-v1"
SCORE_WINDOW = 100  # episodes in the mean that is shown


@dataclass(frozen=True)
class Episode:
    """One finished episode of training."""

    number: int  # the first is 1
    score: float  # sum of the rewards learned from, the last step's penalty among them
    steps: int
    epsilon: float  # the ε it was played with


@dataclass(frozen=True)
class Progress:
    """Where training stands after an episode."""

    episode: Episode
    mean_score: float  # over the last 100 episodes
    total_steps: int
    seconds: float


@dataclass(frozen=True)
class Run:
    """What a training run leaves behind."""

    recipe: Recipe
    seed: int
    device: str
    network: DQNetwork
    episodes: list[Episode]
    steps: int
    seconds: float
    stopped: Literal["solved", "episodes", "interrupted"]
    states_seen: dict[str, Any]


def train(
    recipe: Recipe,
    seed: int,
    device: torch.device,
    *,
    report: Callable[[Progress], None] = lambda _: None,
    interrupted: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.monotonic,
) -> Run:
    """Train one agent. On the CPU the same recipe and seed give the same weights, bit for bit, on the same machine.

    `report` is called after each episode; training ends early, and keeps what it learned, once `interrupted` answers true.
    Raises `ValueError` for a seed outside 0 … 2³¹ - 1: those above belong to the evaluations.
    """
    if not 0 <= seed < SEED_LIMIT:
        raise ValueError(f"seed: {seed} is outside 0 … {SEED_LIMIT - 1}")
    torch.set_num_threads(1)  # for networks this small more threads are slower
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    environment = gym.make(ENVIRONMENT, disable_env_checker=True)
    environment.reset(seed=seed)
    assert environment.spec is not None
    assert environment.spec.max_episode_steps is not None
    last_score = environment.spec.max_episode_steps - 1

    network = DQNetwork(recipe.hidden).to(device)
    actor = Actor(network)
    learner = Learner(network, learning_rate=recipe.learning_rate, discount=recipe.discount)
    memory = ReplayMemory(recipe.memory)
    seen = StatesSeen(seed)
    episodes: list[Episode] = []
    recent: deque[float] = deque(maxlen=SCORE_WINDOW)
    window: deque[float] = deque(maxlen=recipe.stop_window)
    epsilon = recipe.epsilon_start
    steps = 0
    started = clock()
    stopped: Literal["solved", "episodes", "interrupted"] = "episodes"

    for number in range(1, recipe.episodes + 1):
        if interrupted():
            stopped = "interrupted"
            break
        state, _ = environment.reset()
        visited = [state]
        score = 0.0
        ended = False
        while not ended:
            action = act(actor.q_values(state), epsilon, rng)
            next_state, reward, terminated, truncated, _ = environment.step(action)
            ended = terminated or truncated
            # The full episode is no failure: its last step keeps its reward.
            gained = recipe.failure_reward if ended and score != last_score else float(reward)
            memory.add(state, action, gained, next_state, terminal=terminated or (truncated and recipe.truncation_is_terminal))
            score += gained
            state = next_state
            visited.append(state)
            steps += 1
            if steps % recipe.learn_every == 0 and len(memory) > recipe.batch:
                learner.update(memory.sample(rng, recipe.batch))
                actor.refresh()

        seen.add(np.stack(visited))
        episode = Episode(number, score, len(visited) - 1, epsilon)
        episodes.append(episode)
        recent.append(score)
        window.append(score)
        epsilon = max(recipe.epsilon_min, epsilon * recipe.epsilon_decay)
        report(Progress(episode, sum(recent) / len(recent), steps, clock() - started))
        if number > recipe.stop_window and sum(window) / len(window) > recipe.stop_mean:
            stopped = "solved"
            break

    environment.close()
    return Run(recipe, seed, device.type, network, episodes, steps, clock() - started, stopped, seen.summary())
