"""Model selection: which agent of a population, at which point of training, is exported.

All agents are evaluated greedily in a few validation episodes; only those that could be selected
get many. The seeds are those of validation, so what is exported is evaluated on others.
"""

import functools
from dataclasses import dataclass, replace

import numpy as np
import torch
from pydantic import JsonValue

from models.manifest import Plant
from training.envs.plant import STANDARD, steps_of
from training.evaluation.lqr import lqr
from training.evaluation.robustness import SCENARIOS, Scenario, success_rates
from training.network import DQNetwork
from training.population.q_networks import StackedLayers, StackedQNetworks, greedy_controller
from training.recipes import SelectionRule
from training.seeding import VALIDATION_SEEDS
from training.snapshot import Snapshot
from training.types import Controller, Float64Array

# The plant as it is, with a margin: first states a fifth wider and episodes a fifth longer than
# those that the exported policy will be evaluated in.
NOMINAL = Scenario("nominal", steps=600, episodes=2_000, start=0.06)
NOMINAL_SHORT_EPISODES = 8

HARD = (
    "extreme",
    "noise 0.1",
    "delay 3",
    "push 1",
    "noise 0.15",
    "delay 4",
    "heavy long pole",
    "40 % dropped",
    "noise, delay, pushes",
    "recovery",
)
HARD_SCENARIOS = tuple(scenario for scenario in SCENARIOS if scenario.name in HARD)
HARD_SHORT_EPISODES = 32
# In the middle of its range a rate of 400 episodes errs by 5 %, more than agents differ by.
HARD_LONG_EPISODES = 1_000
HARD_LONG = tuple(
    replace(scenario, episodes=max(scenario.episodes, HARD_LONG_EPISODES))
    for scenario in HARD_SCENARIOS
)

SHORT_SEED, LONG_SEED = VALIDATION_SEEDS.start, VALIDATION_SEEDS.start + 1
# The long validation is for those whose short score is at most so far below the best agent's.
SCORE_MARGIN = 0.02
# Before this share of the training no agent is good enough to be worth it.
LONG_FROM = 0.7


@dataclass(frozen=True)
class BestAgent:
    """The agent that would be exported."""

    score: float  # of the long validation
    agent: int
    vector_steps: int  # when it was selected
    network: DQNetwork


class ModelSelection:
    """The best agent so far, by one of two rules.

    `first`: the first agent that succeeds in every episode on the nominal plant. `best`: the one
    with the highest score over the hard scenarios, at any check near the end.
    """

    def __init__(
        self, rule: SelectionRule, hidden: tuple[int, ...], plant: Plant = STANDARD
    ) -> None:
        self.rule = rule
        self._hidden, self._plant = hidden, plant
        self._nominal = (replace(NOMINAL, steps=steps_of(plant, NOMINAL.steps_on(STANDARD))),)
        self.best: BestAgent | None = None

    @property
    def is_final(self) -> bool:
        """Whether no later agent would be selected."""
        return self.rule == "first" and self.best is not None

    def check(
        self,
        networks: StackedQNetworks,
        layers: StackedLayers,
        vector_steps: int,
        *,
        progress: float,
    ) -> Float64Array:
        """Evaluate all agents, with the weights `layers`, and select.

        `progress` is the share of the training that is done. Returns the scores of the short
        validation, (K,): 1 is perfect.
        """
        candidates = _Candidates(networks, layers, vector_steps)
        if self.rule == "first":
            return self._check_first(candidates)
        return self._check_best(candidates, progress)

    def snapshot(self) -> Snapshot:
        """Return the best agent, if there is one."""
        best = self.best
        if best is None:
            return Snapshot(values={"selected": False})

        weights = {name: tensor.numpy() for name, tensor in best.network.state_dict().items()}
        values: dict[str, JsonValue] = {
            "selected": True,
            "score": best.score,
            "agent": best.agent,
            "vector_steps": best.vector_steps,
        }
        return Snapshot(weights, values)

    def restore(self, snapshot: Snapshot) -> None:
        """Take over the best agent of a snapshot."""
        if not snapshot.values["selected"]:
            self.best = None
            return

        network = DQNetwork(self._hidden)
        network.load_state_dict(
            {name: torch.from_numpy(array.copy()) for name, array in snapshot.arrays.items()}
        )
        self.best = BestAgent(
            snapshot.number("score"),
            snapshot.integer("agent"),
            snapshot.integer("vector_steps"),
            network,
        )

    def _check_first(self, candidates: "_Candidates") -> Float64Array:
        scores: Float64Array = success_rates(
            candidates.controller(),
            SHORT_SEED,
            self._nominal,
            episodes=NOMINAL_SHORT_EPISODES,
            copies=candidates.count,
            plant=self._plant,
        ).mean(axis=1)

        for agent in np.flatnonzero(scores == 1).tolist():
            controller = candidates.controller(agent)
            rates = success_rates(controller, LONG_SEED, self._nominal, plant=self._plant)
            score = float(rates.min())
            if score == 1:
                self.best = candidates.best_agent(agent, score)
                break
        return scores

    def _check_best(self, candidates: "_Candidates", progress: float) -> Float64Array:
        short_rates = success_rates(
            candidates.controller(),
            SHORT_SEED,
            HARD_SCENARIOS,
            episodes=HARD_SHORT_EPISODES,
            copies=candidates.count,
            plant=self._plant,
        )
        scores = score_of(short_rates, _goals(SHORT_SEED, HARD_SHORT_EPISODES, self._plant))
        if progress < LONG_FROM:
            return scores

        goals = _goals(LONG_SEED, None, self._plant)
        for agent in np.flatnonzero(scores >= scores.max() - SCORE_MARGIN).tolist():
            controller = candidates.controller(agent)
            rates = success_rates(controller, LONG_SEED, HARD_LONG, plant=self._plant)
            score = float(score_of(rates, goals)[0])
            if self.best is None or score > self.best.score:
                self.best = candidates.best_agent(agent, score)
        return scores


class _Candidates:
    """All agents at one check."""

    def __init__(
        self, networks: StackedQNetworks, layers: StackedLayers, vector_steps: int
    ) -> None:
        self.count = networks.agents
        self._networks, self._layers, self._vector_steps = networks, layers, vector_steps
        self._numpy_layers = networks.to_numpy(layers)

    def controller(self, agent: int | None = None) -> Controller:
        """Return the greedy policy of one agent, or those of all agents as one function."""
        agents = list(range(self.count)) if agent is None else [agent]
        return greedy_controller(
            [(weights[agents], biases[agents]) for weights, biases in self._numpy_layers]
        )

    def best_agent(self, agent: int, score: float) -> BestAgent:
        network = self._networks.agent(agent, self._layers)
        return BestAgent(score, agent, self._vector_steps, network)


@functools.cache
def _goals(seed: int, episodes: int | None, plant: Plant) -> Float64Array:
    """Return the success rates to reach, (1, scenarios): the LQR's, the same at every check.

    Of the starts that can be saved all are to be.
    """
    scenarios = HARD_LONG if episodes is None else HARD_SCENARIOS
    controller = functools.partial(lqr, plant=plant)
    goals = success_rates(controller, seed, scenarios, episodes=episodes, plant=plant)
    goals[:, [scenario.recoverable for scenario in scenarios]] = 1.0
    return goals


def score_of(rates: Float64Array, goals: Float64Array) -> Float64Array:
    """Return one number for each agent, (K,), from success rates (K, scenarios).

    What counts is how far each rate is below its goal; the score is 1 less the mean of the largest
    shortfall and the mean one.
    """
    shortfalls = np.maximum(goals - rates, 0.0)
    return np.asarray(1 - (shortfalls.max(axis=1) + shortfalls.mean(axis=1)) / 2)
