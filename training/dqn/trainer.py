"""The baseline way of training: one agent, one environment, an episode at a time, as the tutorial does it.

It keeps a loop of its own beside the population's (docs/decisions/0005).
"""

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from training.dqn.learner import Learner, act
from training.network import Actor, DQNetwork
from training.random_streams import generator_state, set_generator_state
from training.recipes import BaselineRecipe
from training.dqn.replay_buffer import ReplayMemory
from training.trainer import ENVIRONMENT, Progress, Snapshot, Stopped
from training.state_statistics import StatesSeen

SCORE_WINDOW = 100  # episodes in the mean that is shown
KEPT_EVERY = 100  # episodes


class BaselineTrainer:
    """The tutorial's agent in its environment, between two episodes."""

    def __init__(self, recipe: BaselineRecipe, seed: int, device: torch.device) -> None:
        torch.manual_seed(seed)  # for the network's first weights; nothing later draws from torch
        self.recipe = recipe
        self.network = DQNetwork(recipe.hidden).to(device)
        self.history: list[dict[str, float]] = []
        self.steps = 0
        self.stopped: Stopped | None = None
        self._rng = np.random.default_rng(seed)
        self._environment = gym.make(ENVIRONMENT, disable_env_checker=True)
        self._environment.reset(seed=seed)
        self._actor = Actor(self.network)
        self._learner = Learner(
            self.network, learning_rate=recipe.learning_rate, discount=recipe.gamma
        )
        self._memory = ReplayMemory(recipe.buffer_size)
        self._seen = StatesSeen(np.random.default_rng((seed, 1)))  # a stream of its own
        self._epsilon = recipe.epsilon_start
        assert self._environment.spec is not None
        assert self._environment.spec.max_episode_steps is not None
        self._last_score = self._environment.spec.max_episode_steps - 1

    def advance(self, elapsed: Callable[[], float]) -> Progress:
        """Play one episode and learn on the way."""
        recipe, memory = self.recipe, self._memory
        state, _ = self._environment.reset()
        visited = [state]
        score = 0.0
        ended = False
        while not ended:
            action = act(self._actor.q_values(state), self._epsilon, self._rng)
            next_state, reward, terminated, truncated, _ = self._environment.step(action)
            ended = terminated or truncated
            # The full episode is no failure: its last step keeps its reward.
            gained = recipe.failure_reward if ended and score != self._last_score else float(reward)
            memory.add(
                state,
                action,
                gained,
                next_state,
                terminal=terminated or (truncated and recipe.truncation_is_terminal),
            )
            score += gained
            state = next_state
            visited.append(state)
            self.steps += 1
            if self.steps % recipe.train_frequency == 0 and len(memory) > recipe.batch_size:
                self._learner.update(memory.sample(self._rng, recipe.batch_size))
                self._actor.refresh()

        self._seen.add(np.stack(visited))
        number = len(self.history) + 1
        self.history.append(
            {"episode": number, "score": score, "steps": len(visited) - 1, "epsilon": self._epsilon}
        )
        self._epsilon = max(recipe.epsilon_min, self._epsilon * recipe.epsilon_decay)
        if number > recipe.stop_window and self._mean_score(recipe.stop_window) > recipe.stop_mean:
            self.stopped = "solved"
        elif number == recipe.episodes:
            self.stopped = "limit"
        return self._progress(elapsed())

    def states_seen(self) -> dict[str, Any]:
        """Return range and quantiles of the states so far."""
        return self._seen.summary()

    def snapshot(self) -> Snapshot:
        """Return all that the next episode depends on. Between episodes that is nothing of the environment but its random stream."""
        optimiser = self._learner.optimiser.state_dict()["state"]
        arrays = {
            f"network.{name}": tensor.detach().cpu().numpy()
            for name, tensor in self.network.state_dict().items()
        }
        arrays |= {
            f"adam.{index}.{name}": tensor.cpu().numpy()
            for index, part in optimiser.items()
            for name, tensor in part.items()
        }
        arrays |= {f"memory.{name}": array for name, array in self._memory.arrays().items()}
        arrays |= {f"seen.{name}": array for name, array in self._seen.arrays().items()}
        arrays["history"] = np.array(
            [list(row.values()) for row in self.history], np.float64
        ).reshape(-1, 4)
        return Snapshot(
            arrays,
            {
                "rng": generator_state(self._rng),
                "environment": generator_state(self._environment.np_random),
                "seen": self._seen.values(),
                "memory": self._memory.added,
                "epsilon": self._epsilon,
                "steps": self.steps,
                "stopped": self.stopped,
            },
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Take the place of the trainer that gave the snapshot."""
        arrays, values = snapshot.arrays, snapshot.values
        self.network.load_state_dict(
            {
                name: torch.from_numpy(arrays[f"network.{name}"].copy())
                for name in self.network.state_dict()
            }
        )
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for key in arrays:
            if key.startswith("adam."):
                _, index, name = key.split(".")
                moments.setdefault(int(index), {})[name] = torch.from_numpy(arrays[key].copy())
        optimiser = self._learner.optimiser
        optimiser.load_state_dict(
            {"state": moments, "param_groups": optimiser.state_dict()["param_groups"]}
        )
        added, epsilon, steps, stopped = (
            values[name] for name in ("memory", "epsilon", "steps", "stopped")
        )
        assert isinstance(added, int)
        assert isinstance(epsilon, float)
        assert isinstance(steps, int)
        assert stopped in ("solved", "limit", None)
        self._memory.restore(
            {name: arrays[f"memory.{name}"] for name in self._memory.arrays()}, added
        )
        self._seen.restore(
            {name: arrays[f"seen.{name}"] for name in self._seen.arrays()}, values["seen"]
        )
        set_generator_state(self._rng, values["rng"])
        set_generator_state(self._environment.np_random, values["environment"])
        self._epsilon, self.steps = epsilon, steps
        self.stopped = None if stopped is None else ("solved" if stopped == "solved" else "limit")
        names: Sequence[str] = ("episode", "score", "steps", "epsilon")
        self.history = [dict(zip(names, row, strict=True)) for row in arrays["history"].tolist()]
        self._actor.refresh()

    def _mean_score(self, window: int) -> float:
        scores = [row["score"] for row in self.history[-window:]]
        return sum(scores) / len(scores)

    def _progress(self, seconds: float) -> Progress:
        last, mean = self.history[-1], self._mean_score(SCORE_WINDOW)
        number = len(self.history)
        speed = self.steps / seconds if seconds > 0 else 0.0
        line = (
            f"episode {number:>5}/{self.recipe.episodes}  score {last['score']:>5.0f}"
            f"  mean of {SCORE_WINDOW} {mean:>6.2f}  ε {last['epsilon']:.4f}  {speed:>7,.0f} steps/s"
        )
        figures = {
            "episode": number,
            "score": last["score"],
            "mean_score": mean,
            "epsilon": last["epsilon"],
        }
        return Progress(
            line,
            {**figures, "steps": self.steps, "seconds": seconds},
            kept=number % KEPT_EVERY == 0,
        )
