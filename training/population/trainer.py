"""The population's way of training: K agents side by side, judged greedily on their way. Knows nothing of files and displays.

The story of one vector step: every agent acts ε-greedily in its environments, remembers what came of it and learns from minibatches of its
memory. Every `check_every` steps all agents are judged greedily: a short exam for all, a long one for those that could pass.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, JsonValue

from training import seeding as seeds
from training.envs.cartpole import PerturbedCartPole
from training.evaluation.robustness import SCORECARD, Column, Controller, examine
from training.evaluation.lqr import lqr
from training.network import DQNetwork, Float32Array
from training.population.q_networks import Layers, Population, captured
from training.population.replay_buffer import PopulationMemory
from training.random_streams import generator_state, set_generator_state
from training.recipes import PopulationRecipe
from training.trainer import Progress, Snapshot, Stopped
from training.state_statistics import StatesSeen

Float64Array = NDArray[np.float64]

# The nominal exam, with a margin: first states a fifth wider and runs a fifth longer than what will be asked.
NOMINAL = (Column("nominal", steps=600, runs=2_000, start=0.06),)
HARD = ("moderate", "extreme", "noise 0.1", "delay 3", "start ±0.2", "push 0.5", "push 1")
VALIDATED = tuple(column for column in SCORECARD if column.name in HARD)
SHORT_SEED, LONG_SEED = seeds.VALIDATION.start, seeds.VALIDATION.start + 1
WORTH_A_LOOK = 0.02  # how far below the kept one a short score may be for the long exam to be taken
SMOOTHING = 0.05  # share of the newest episode in an agent's smoothed return
HISTORY = (
    "steps",
    "seconds",
    "epsilon",
    "best_score",
    "median_score",
    "best_return",
    "median_return",
)


@dataclass(frozen=True)
class Kept:
    """The agent that would be exported."""

    score: float  # of the long exam
    agent: int
    vector_steps: int
    network: DQNetwork


class PopulationTrainer:
    """A population in training, between two greedy checks."""

    def __init__(self, recipe: PopulationRecipe, seed: int, device: torch.device) -> None:
        weights, exploration, sampling, environment = np.random.SeedSequence(seed).spawn(4)
        self.recipe = recipe
        self.history: list[dict[str, float]] = []
        self.stopped: Stopped | None = None
        self.vector_steps = 0
        self.kept: Kept | None = None
        self._population = Population(
            recipe.agents,
            recipe.hidden,
            recipe.batch_size,
            np.random.default_rng(weights),
            learning_rate=recipe.learning_rate,
            polyak=recipe.tau,
            average=recipe.weight_ema,
            huber=recipe.huber_delta,
            scale=recipe.scale,
            advantage=recipe.advantage,
            device=device.type,
        )
        self._memory = PopulationMemory(
            recipe.agents,
            recipe.buffer_size,
            recipe.num_envs,
            n_step=recipe.n_step,
            gamma=recipe.gamma,
            device=device.type,
        )
        environments = recipe.agents * recipe.num_envs
        self._environment = PerturbedCartPole(
            environments, recipe.domain_randomization, recipe.reward, recipe.max_episode_steps
        )
        self._environment.reset(seed=int(environment.generate_state(1)[0]))
        self._streams = {
            "exploration": np.random.default_rng(exploration),
            "sampling": np.random.default_rng(sampling),
            "environment": self._environment.np_random,
        }
        self._seen = StatesSeen(np.random.default_rng((seed, 1)))  # a stream of its own
        self._returns: Float64Array = np.zeros(
            recipe.agents
        )  # smoothed, of each agent's training episodes
        self._return_so_far: Float64Array = np.zeros(environments)
        self._learn: Callable[[], None] = (
            self._population.learn if device.type == "cpu" else captured(self._population)
        )

    @property
    def steps(self) -> int:
        """Environment steps so far, of all agents together."""
        return self.vector_steps * self.recipe.num_envs * self.recipe.agents

    @property
    def epsilon(self) -> float:
        """Share of random actions: linear in the environment steps of an agent, then constant."""
        recipe = self.recipe
        share = min(1.0, self.vector_steps * recipe.num_envs / recipe.epsilon_steps)
        return recipe.epsilon_start + (recipe.epsilon_end - recipe.epsilon_start) * share

    @property
    def learning_rate(self) -> float:
        """Adam's step size: linear over the whole run."""
        recipe = self.recipe
        share = min(1.0, self.vector_steps * recipe.num_envs / recipe.steps)
        return recipe.learning_rate + (recipe.learning_rate_end - recipe.learning_rate) * share

    @property
    def network(self) -> DQNetwork:
        """The agent that was kept, as a plain network; while there is none, the first."""
        if self.kept is None:
            return self._population.agent(0, self._judged)
        return self.kept.network

    def advance(self, elapsed: Callable[[], float]) -> Progress:
        """Train until the next greedy check, or to the end, and check."""
        recipe = self.recipe
        states_seen = []
        with torch.no_grad():  # the gradient is written by hand
            while True:
                states_seen.append(self._environment.seen)
                self._step()
                used_up = self.vector_steps * recipe.num_envs >= recipe.steps
                if used_up or self.vector_steps % recipe.eval_frequency == 0:
                    break
            self._seen.add(np.concatenate(states_seen))
            scores = self._check()
        if used_up or (recipe.model_selection == "first" and self.kept is not None):
            self.stopped = "limit" if self.kept is None else "solved"
        return self._progress(scores, elapsed())

    def states_seen(self) -> dict[str, Any]:
        """Return range and quantiles of the states so far."""
        return self._seen.summary()

    def snapshot(self) -> Snapshot:
        """Return all that the next step depends on."""
        arrays: dict[str, NDArray[Any]] = {
            "returns": self._returns,
            "return_so_far": self._return_so_far,
        }
        arrays |= {
            f"population.{name}": tensor.numpy(force=True)
            for name, tensor in self._population.tensors().items()
        }
        for prefix, part in (
            ("memory", self._memory),
            ("environment", self._environment),
            ("seen", self._seen),
        ):
            arrays |= {f"{prefix}.{name}": array for name, array in part.arrays().items()}
        arrays["history"] = np.array(
            [[row[name] for name in HISTORY] for row in self.history], np.float64
        ).reshape(-1, len(HISTORY))
        kept: JsonValue = None
        if self.kept is not None:
            arrays |= {
                f"kept.{name}": tensor.numpy()
                for name, tensor in self.kept.network.state_dict().items()
            }
            kept = {
                "score": self.kept.score,
                "agent": self.kept.agent,
                "vector_steps": self.kept.vector_steps,
            }
        values: dict[str, JsonValue] = {
            "vector_steps": self.vector_steps,
            "stopped": self.stopped,
            "memory": dict(self._memory.counters()),
            "seen": self._seen.values(),
            "streams": {name: generator_state(stream) for name, stream in self._streams.items()},
            "kept": kept,
        }
        return Snapshot(arrays, values)

    def restore(self, snapshot: Snapshot) -> None:
        """Take the place of the trainer that gave the snapshot."""
        arrays, values = snapshot.arrays, snapshot.values

        def part(prefix: str) -> dict[str, NDArray[Any]]:
            return {
                name.removeprefix(f"{prefix}."): array
                for name, array in arrays.items()
                if name.startswith(f"{prefix}.")
            }

        for name, tensor in self._population.tensors().items():
            tensor.copy_(torch.from_numpy(arrays[f"population.{name}"].copy()))
        saved = _Values.model_validate(values)
        self._memory.restore(part("memory"), saved.memory)
        self._environment.restore(part("environment"))
        self._seen.restore(part("seen"), values["seen"])
        self._returns, self._return_so_far = (
            arrays["returns"].copy(),
            arrays["return_so_far"].copy(),
        )
        self.vector_steps, self.stopped = saved.vector_steps, saved.stopped
        self.history = [dict(zip(HISTORY, row, strict=True)) for row in arrays["history"].tolist()]
        for name, stream in self._streams.items():
            set_generator_state(stream, saved.streams[name])
        self.kept = None
        if saved.kept is not None:
            network = DQNetwork(self.recipe.hidden)
            network.load_state_dict(
                {name: torch.from_numpy(array.copy()) for name, array in part("kept").items()}
            )
            self.kept = Kept(saved.kept.score, saved.kept.agent, saved.kept.vector_steps, network)

    @property
    def _judged(self) -> Layers:
        """The weights that are judged and exported."""
        return self._population.average if self.recipe.weight_ema else self._population.online

    def _step(self) -> None:
        """Take one step of the vector environment, remember it, and learn."""
        recipe, states = self.recipe, self._environment.seen
        actions = self._population.act(states, self.epsilon, self._streams["exploration"])
        _, rewards, terminated, truncated, info = self._environment.step(actions)
        self._memory.add(states, actions, rewards, info["final_obs"], terminated, truncated)
        self._count(rewards, terminated | truncated)
        if self._memory.size >= recipe.learning_starts:
            self._population.learning_rate.fill_(self.learning_rate)
            for _ in range(recipe.updates):
                self._memory.sample(
                    self._streams["sampling"], self._population.minibatch, recipe.mirror
                )
                self._learn()
        self.vector_steps += 1

    def _count(self, rewards: Float32Array, ended: NDArray[np.bool_]) -> None:
        self._return_so_far += rewards
        for environment in np.flatnonzero(ended):
            agent = environment // self.recipe.num_envs
            self._returns[agent] += SMOOTHING * (
                self._return_so_far[environment] - self._returns[agent]
            )
            self._return_so_far[environment] = 0

    def _check(self) -> Float64Array:
        """Judge all agents shortly, and at length those that could be kept. Returns the scores, (K,), of the short exam: 1 is perfect."""
        recipe = self.recipe
        everyone = list(range(recipe.agents))
        if recipe.model_selection == "first":
            scores: Float64Array = examine(
                self._controller(everyone), SHORT_SEED, NOMINAL, runs=8, copies=recipe.agents
            ).mean(axis=1)
            for agent in np.flatnonzero(scores == 1).tolist():
                long = float(examine(self._controller([agent]), LONG_SEED, NOMINAL).min())
                if long == 1:
                    self._keep(agent, long)
                    break
            return scores

        short = examine(
            self._controller(everyone), SHORT_SEED, VALIDATED, runs=64, copies=recipe.agents
        )
        scores = score(short, _reference(SHORT_SEED, 64))
        best = int(scores.argmax())
        if self.kept is None or scores[best] >= self.kept.score - WORTH_A_LOOK:
            long = float(
                score(
                    examine(self._controller([best]), LONG_SEED, VALIDATED),
                    _reference(LONG_SEED, None),
                )[0]
            )
            if self.kept is None or long > self.kept.score:
                self._keep(best, long)
        return scores

    def _keep(self, agent: int, long: float) -> None:
        self.kept = Kept(
            long, agent, self.vector_steps, self._population.agent(agent, self._judged)
        )

    def _controller(self, agents: list[int]) -> Controller:
        """Return the greedy policies of some agents: states (agents · n, 4), agent by agent → actions (agents · n,)."""
        return greedy(
            [
                (weights[agents], biases[agents])
                for weights, biases in self._population.plain(self._judged)
            ]
        )

    def _progress(self, scores: Float64Array, seconds: float) -> Progress:
        """Note the check in the history, and show it."""
        recipe, agent_steps = self.recipe, self.vector_steps * self.recipe.num_envs
        row = dict(
            zip(
                HISTORY,
                (
                    agent_steps,
                    seconds,
                    self.epsilon,
                    float(scores.max()),
                    float(np.median(scores)),
                    float(self._returns.max()),
                    float(np.median(self._returns)),
                ),
                strict=True,
            )
        )
        self.history.append(row)
        alive = self._population.alive()
        speed = self.steps / seconds if seconds > 0 else 0.0
        left = seconds * (recipe.steps / agent_steps - 1)
        kept = "none" if self.kept is None else f"{self.kept.score:.3f}"
        line = (
            f"step {agent_steps:>7,}/{recipe.steps:,}  alive {alive}/{recipe.agents}  best {scores.max():.3f}"
            f"  median {np.median(scores):.3f}  kept {kept:>5}  ε {self.epsilon:.3f}  {speed:>7,.0f} steps/s  {left:>4.0f} s left"
        )
        figures = {
            **row,
            "steps": self.steps,
            "agents_alive": alive,
            "kept_score": 0.0 if self.kept is None else self.kept.score,
            "learning_rate": self.learning_rate,
            "terminal_share": float(self._memory.terminal_share().mean()),
            **self._population.diagnostics(),
        }
        return Progress(line, figures, kept=True)


class _KeptValues(BaseModel):
    score: float
    agent: int
    vector_steps: int


class _Values(BaseModel):
    """What a snapshot holds beside its arrays."""

    vector_steps: int
    stopped: Stopped | None
    memory: dict[str, int]
    streams: dict[str, JsonValue]
    kept: _KeptValues | None


@functools.cache
def _reference(seed: int, runs: int | None) -> Float64Array:
    """Return the regulator's shares, (1, columns), of a validation exam: the same at every check."""
    return examine(lqr, seed, VALIDATED, runs=runs)


def score(shares: Float64Array, reference: Float64Array) -> Float64Array:
    """One number an agent (K,) from shares (K, columns): the worst column and the mean, each against the reference and at most 1."""
    ratio = np.minimum(shares / reference, 1.0)
    return np.asarray((ratio.min(axis=1) + ratio.mean(axis=1)) / 2)


def greedy(pairs: list[tuple[Float32Array, Float32Array]]) -> Controller:
    """Return the greedy policy of stacked layers: weights (K, in, out) and biases (K, 1, out) each; the first action at a tie."""
    *hidden, (last_weights, last_biases) = pairs

    def act(states: Float32Array) -> NDArray[np.int64]:
        rows = states.reshape(len(last_weights), -1, states.shape[1])
        for weights, biases in hidden:
            rows = np.matmul(rows, weights)
            rows += biases
            np.maximum(rows, 0, out=rows)
        actions: NDArray[np.int64] = (
            (np.matmul(rows, last_weights) + last_biases).argmax(axis=2).reshape(-1)
        )
        return actions

    return act
