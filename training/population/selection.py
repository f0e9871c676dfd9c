"""Model selection: which agent of a population, at which point of training, is exported.

All agents are evaluated greedily in a few validation episodes; only those that could be selected
get many. The seeds are those of validation, so what is exported is evaluated on others.
"""

import functools
from dataclasses import dataclass, replace

import numpy as np
import torch
from pydantic import JsonValue, TypeAdapter

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

SCENARIOS_A_CALL = 3  # of the long validation: some tenths of a second

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
        # Of a check that is under way: what the short validation gave, and who waits for the long.
        self._scores: Float64Array | None = None
        self._waiting: list[int] = []
        self._rates: list[float] = []  # of the first who waits, in the scenarios so far

    @property
    def is_under_way(self) -> bool:
        """Whether agents wait for their long validation: no step may come before `check` ended."""
        return self._scores is not None

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
    ) -> Float64Array | None:
        """Evaluate all agents, with the weights `layers`, and select: a part of it at each call.

        The first call is the short validation, and each further one a part of the long validation
        of one agent, so that nobody waits long for a call to end. `progress` is the share of the
        training that is done. Returns the scores of the short validation, (K,), where 1 is perfect,
        once the check has ended, and None before.
        """
        candidates = _Candidates(networks, layers, vector_steps)
        if self._scores is None:
            first = self.rule == "first"
            self._scores = (
                self._nominal_scores(candidates) if first else self._hard_scores(candidates)
            )
            if first:
                self._waiting = np.flatnonzero(self._scores == 1).tolist()
            elif progress >= LONG_FROM:
                least = self._scores.max() - SCORE_MARGIN
                self._waiting = np.flatnonzero(self._scores >= least).tolist()
        else:
            self._validate(candidates, self._waiting[0])

        if self._waiting:
            return None
        scores, self._scores = self._scores, None
        return scores

    def snapshot(self) -> Snapshot:
        """Return the best agent, if there is one, and the check that is under way."""
        arrays = {} if self._scores is None else {"scores": self._scores}
        values: dict[str, JsonValue] = {
            "selected": self.best is not None,
            "waiting": list(self._waiting),
            "rates": list(self._rates),
        }
        best = self.best
        if best is None:
            return Snapshot(arrays, values)

        weights = {name: tensor.numpy() for name, tensor in best.network.state_dict().items()}
        values |= {"score": best.score, "agent": best.agent, "vector_steps": best.vector_steps}
        return Snapshot(arrays, values, {"network": Snapshot(weights)})

    def restore(self, snapshot: Snapshot) -> None:
        """Take over the best agent of a snapshot, and the check that was under way."""
        scores = snapshot.arrays.get("scores")
        self._scores = None if scores is None else scores.copy()
        self._waiting = TypeAdapter(list[int]).validate_python(snapshot.values["waiting"])
        self._rates = TypeAdapter(list[float]).validate_python(snapshot.values["rates"])
        if not snapshot.values["selected"]:
            self.best = None
            return

        network = DQNetwork(self._hidden)
        weights = snapshot.parts["network"].arrays
        network.load_state_dict(
            {name: torch.from_numpy(array.copy()) for name, array in weights.items()}
        )
        self.best = BestAgent(
            snapshot.number("score"),
            snapshot.integer("agent"),
            snapshot.integer("vector_steps"),
            network,
        )

    def _nominal_scores(self, candidates: "_Candidates") -> Float64Array:
        scores: Float64Array = success_rates(
            candidates.controller(),
            SHORT_SEED,
            self._nominal,
            episodes=NOMINAL_SHORT_EPISODES,
            copies=candidates.count,
            plant=self._plant,
        ).mean(axis=1)
        return scores

    def _hard_scores(self, candidates: "_Candidates") -> Float64Array:
        rates = success_rates(
            candidates.controller(),
            SHORT_SEED,
            HARD_SCENARIOS,
            episodes=HARD_SHORT_EPISODES,
            copies=candidates.count,
            plant=self._plant,
        )
        return score_of(rates, _goals(SHORT_SEED, HARD_SHORT_EPISODES, self._plant))

    def _validate(self, candidates: "_Candidates", agent: int) -> None:
        """Evaluate an agent in many episodes of the next scenarios.

        After the last of them it is selected, if it is better than the best.
        """
        controller = candidates.controller(agent)
        first = self.rule == "first"
        scenarios = self._nominal if first else HARD_LONG
        done = len(self._rates)
        rates = success_rates(
            controller,
            LONG_SEED,
            scenarios[done : done + SCENARIOS_A_CALL],
            first_number=done,
            plant=self._plant,
        )
        self._rates += rates[0].tolist()
        if len(self._rates) < len(scenarios):
            return

        all_rates = np.array([self._rates])
        self._rates = []
        self._waiting.pop(0)
        if first:
            score = float(all_rates.min())
            if score == 1:
                self.best = candidates.best_agent(agent, score)
                self._waiting.clear()
            return

        score = float(score_of(all_rates, _goals(LONG_SEED, None, self._plant))[0])
        if self.best is None or score > self.best.score:
            self.best = candidates.best_agent(agent, score)


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
