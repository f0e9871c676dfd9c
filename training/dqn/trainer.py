"""Training of one DQN agent in one environment, episode by episode, as the tutorial does it.

It has a loop of its own beside the population's; docs/decisions/0005 says why.
"""

from collections.abc import Callable

import gymnasium as gym
import numpy as np
import torch

from training.dqn.learner import Learner, epsilon_greedy
from training.dqn.replay_buffer import ReplayBuffer
from training.envs.cartpole import ENVIRONMENT, time_limit
from training.envs.state_statistics import StateStatistics, StateSummary
from training.network import DQNetwork, NumpyPolicy
from training.recipes import BaselineRecipe
from training.seeding import generator_state, set_generator_state
from training.snapshot import Snapshot
from training.trainer import History, Progress, Stopped, stopped_in

SCORE_WINDOW = 100  # episodes in the mean score that is shown
LOG_INTERVAL = 100  # episodes
HISTORY_COLUMNS = ("episode", "score", "steps", "epsilon")


class DQNTrainer:
    """The tutorial's agent in its environment; it can be stopped between two episodes."""

    def __init__(self, recipe: BaselineRecipe, seed: int, device: torch.device) -> None:
        torch.manual_seed(seed)  # for the network's first weights; nothing later draws from torch
        self.recipe = recipe
        self.network = DQNetwork(recipe.hidden).to(device)
        self.history: History = []
        self.steps = 0
        self.stopped: Stopped | None = None

        self._rng = np.random.default_rng(seed)
        self._environment = gym.make(ENVIRONMENT, disable_env_checker=True)
        self._environment.reset(seed=seed)
        self._policy = NumpyPolicy(self.network)
        self._learner = Learner(
            self.network, learning_rate=recipe.learning_rate, gamma=recipe.gamma
        )
        self._replay_buffer = ReplayBuffer(recipe.buffer_size)
        # A random stream of its own, so that the statistics do not change what is learned.
        self._statistics = StateStatistics(np.random.default_rng((seed, 1)))
        self._epsilon = recipe.epsilon_start
        self._score_before_limit = time_limit() - 1

    def advance(self, elapsed: Callable[[], float]) -> Progress:
        """Run one episode and learn on the way."""
        recipe, buffer = self.recipe, self._replay_buffer
        state, _ = self._environment.reset()
        visited = [state]
        score = 0.0
        ended = False

        while not ended:
            action = epsilon_greedy(self._policy.q_values(state), self._epsilon, self._rng)
            next_state, step_reward, terminated, truncated, _ = self._environment.step(action)
            ended = terminated or truncated

            # The full episode is no failure: its last step keeps its reward.
            failed = ended and score != self._score_before_limit
            reward = recipe.failure_reward if failed else float(step_reward)
            terminal = terminated or (truncated and recipe.truncation_is_terminal)
            buffer.add(state, action, reward, next_state, terminal=terminal)

            score += reward
            state = next_state
            visited.append(state)
            self.steps += 1
            if self.steps % recipe.train_frequency == 0 and len(buffer) > recipe.batch_size:
                self._learner.update(buffer.sample(self._rng, recipe.batch_size))
                self._policy.refresh()

        self._statistics.update(np.stack(visited))
        self._end_episode(score, len(visited) - 1)
        return self._progress(elapsed())

    def state_summary(self) -> StateSummary | None:
        """Return range and quantiles of the states so far; none while there was no state."""
        return self._statistics.summary()

    def snapshot(self) -> Snapshot:
        """Return all that the next episode depends on.

        Between episodes that is nothing of the environment but its random stream.
        """
        rows = [[row[name] for name in HISTORY_COLUMNS] for row in self.history]
        return Snapshot(
            {"history": np.array(rows, np.float64).reshape(-1, len(HISTORY_COLUMNS))},
            {
                "rng": generator_state(self._rng),
                "environment": generator_state(self._environment.np_random),
                "epsilon": self._epsilon,
                "steps": self.steps,
                "stopped": self.stopped,
            },
            {
                "learner": self._learner.snapshot(),
                "replay_buffer": self._replay_buffer.snapshot(),
                "statistics": self._statistics.snapshot(),
            },
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Take over the state of the trainer that gave the snapshot."""
        self._learner.restore(snapshot.parts["learner"])
        self._policy.refresh()
        self._replay_buffer.restore(snapshot.parts["replay_buffer"])
        self._statistics.restore(snapshot.parts["statistics"])

        set_generator_state(self._rng, snapshot.values["rng"])
        set_generator_state(self._environment.np_random, snapshot.values["environment"])
        self._epsilon = snapshot.number("epsilon")
        self.steps = snapshot.integer("steps")
        self.stopped = stopped_in(snapshot)
        self.history = [
            dict(zip(HISTORY_COLUMNS, row, strict=True))
            for row in snapshot.arrays["history"].tolist()
        ]

    def _end_episode(self, score: float, steps: int) -> None:
        """Note the episode in the history, lower ε and decide on stopping."""
        recipe, number = self.recipe, len(self.history) + 1
        self.history.append(
            {"episode": number, "score": score, "steps": steps, "epsilon": self._epsilon}
        )
        self._epsilon = max(recipe.epsilon_min, self._epsilon * recipe.epsilon_decay)

        if number > recipe.stop_window and self._mean_score(recipe.stop_window) > recipe.stop_mean:
            self.stopped = "solved"
        elif number == recipe.episodes:
            self.stopped = "limit"

    def _mean_score(self, window: int) -> float:
        scores = [row["score"] for row in self.history[-window:]]
        return sum(scores) / len(scores)

    def _progress(self, seconds: float) -> Progress:
        last, mean = self.history[-1], self._mean_score(SCORE_WINDOW)
        number = len(self.history)
        speed = self.steps / seconds if seconds > 0 else 0.0
        line = (
            f"episode {number:>5}/{self.recipe.episodes}  score {last['score']:>5.0f}"
            f"  mean of {SCORE_WINDOW} {mean:>6.2f}  ε {last['epsilon']:.4f}"
            f"  {speed:>7,.0f} steps/s"
        )
        metrics = {
            "episode": number,
            "score": last["score"],
            "mean_score": mean,
            "epsilon": last["epsilon"],
            "steps": self.steps,
            "seconds": seconds,
        }
        return Progress(line, metrics, is_logged=number % LOG_INTERVAL == 0)
