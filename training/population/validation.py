"""Validation: what the agents of a population are worth at one check of their training.

All agents are run greedily in a few validation episodes; only those that could be selected get
many. The seeds are those of validation, so what is exported is evaluated on others. A check is a
function of the weights alone, and needs no torch, so that another process can do it.
"""

import functools
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace

import numpy as np

from models.manifest import Plant
from training.envs.plant import STANDARD, steps_of
from training.evaluation import recovery
from training.evaluation.lqr import lqr
from training.evaluation.robustness import SCENARIOS, Scenario, success_rates
from training.population.numpy_layers import NumpyLayers, greedy_controller
from training.recipes import SelectionRule
from training.seeding import VALIDATION_SEEDS
from training.types import Float64Array, Int64Array

# The plant as it is, with a margin: first states a fifth wider and episodes a fifth longer than
# those that the exported policy will be evaluated in.
NOMINAL = Scenario("nominal", steps=600, episodes=2_000, start=0.06)
NOMINAL_SHORT_EPISODES = 8

# Where a policy can be worse than the LQR: with 40 % of the actions dropped both differ by chance.
HARD = (
    "extreme",
    "noise 0.1",
    "delay 3",
    "push 1",
    "noise 0.15",
    "delay 4",
    "heavy long pole",
    "noise, delay, pushes",
    "recovery",
)
HARD_SCENARIOS = tuple(scenario for scenario in SCENARIOS if scenario.name in HARD)
HARD_SHORT = tuple(replace(scenario, episodes=32) for scenario in HARD_SCENARIOS)
# Most agents reach the LQR's rate in all but these two, which decide: they get as many episodes as
# it takes to tell the agents of one training apart.
LONG_EPISODES, DECISIVE_EPISODES = 250, {"extreme": 1_000, "recovery": recovery.STARTS}
HARD_LONG = tuple(
    replace(scenario, episodes=DECISIVE_EPISODES.get(scenario.name, LONG_EPISODES))
    for scenario in HARD_SCENARIOS
)

AGENTS_A_PART, SCENARIOS_A_PART = 2, 3  # of many episodes: half a second

SHORT_SEED, LONG_SEED = VALIDATION_SEEDS.start, VALIDATION_SEEDS.start + 1
# More episodes are for those whose short score is at most so far below the best agent's.
SCORE_MARGIN = 0.02


@dataclass(frozen=True)
class Check:
    """What is to be validated: all agents, by the rule that selects one of them."""

    rule: SelectionRule
    plant: Plant
    layers: NumpyLayers  # of the K agents
    is_long: bool  # by the rule `best`: whether one agent may be selected at this check


@dataclass(frozen=True)
class CheckResult:
    """What a check found; a score of 1 is perfect."""

    short_scores: Float64Array  # (K,)
    long_scores: dict[int, float]  # by agent, of those that got many episodes, in order


def validate(check: Check) -> Iterator[CheckResult | None]:
    """Validate all agents a part at a time, so that nobody waits long for one to end.

    Yields None after each part, and the result after the last.
    """
    if check.rule == "first":
        short_scores = _nominal_scores(check)
        long_scores = yield from _first_that_passes(check, np.flatnonzero(short_scores == 1))
    else:
        short_scores = _hard_scores(check)
        long_scores = {}
        if check.is_long:
            least = short_scores.max() - SCORE_MARGIN
            long_scores = yield from _all(check, np.flatnonzero(short_scores >= least))
    yield CheckResult(short_scores, long_scores)


def prepare(plant: Plant) -> None:
    """Find out what the LQR reaches on a plant, which checks by the rule `best` ask for."""
    _goals(SHORT_SEED, HARD_SHORT, plant)
    _goals(LONG_SEED, HARD_LONG, plant)


Parts = Generator[None, None, dict[int, float]]  # returns scores by agent


def _first_that_passes(check: Check, agents: Int64Array) -> Parts:
    """Validate some agents, in order, until one succeeds in every episode."""
    scores: dict[int, float] = {}
    for agent in agents.tolist():
        rates = yield from _rates(check, np.array([agent]), _nominal(check.plant))
        scores[agent] = float(rates.min())
        if scores[agent] == 1:
            break
    return scores


def _all(check: Check, agents: Int64Array) -> Parts:
    """Validate some agents, all of them."""
    rates = yield from _rates(check, agents, HARD_LONG)
    yield  # at the first check the goals take as long as a part
    scores = score_of(rates, _goals(LONG_SEED, HARD_LONG, check.plant))
    return dict(zip(agents.tolist(), scores.tolist(), strict=True))


def _nominal(plant: Plant) -> tuple[Scenario]:
    return (replace(NOMINAL, steps=steps_of(plant, NOMINAL.steps_on(STANDARD))),)


def _nominal_scores(check: Check) -> Float64Array:
    scores: Float64Array = success_rates(
        greedy_controller(check.layers),
        SHORT_SEED,
        _nominal(check.plant),
        episodes=NOMINAL_SHORT_EPISODES,
        copies=_count(check.layers),
        plant=check.plant,
    ).mean(axis=1)
    return scores


def _hard_scores(check: Check) -> Float64Array:
    rates = success_rates(
        greedy_controller(check.layers),
        SHORT_SEED,
        HARD_SHORT,
        copies=_count(check.layers),
        plant=check.plant,
    )
    return score_of(rates, _goals(SHORT_SEED, HARD_SHORT, check.plant))


def _rates(
    check: Check, agents: Int64Array, scenarios: tuple[Scenario, ...]
) -> Generator[None, None, Float64Array]:
    """Return the success rates, (agents, scenarios), after many episodes; yields between parts."""
    rates = np.zeros((len(agents), len(scenarios)))
    for row in range(0, len(agents), AGENTS_A_PART):
        some = agents[row : row + AGENTS_A_PART]
        controller = greedy_controller(
            [(weights[some], biases[some]) for weights, biases in check.layers]
        )
        for place in range(0, len(scenarios), SCENARIOS_A_PART):
            yield
            rates[row : row + AGENTS_A_PART, place : place + SCENARIOS_A_PART] = success_rates(
                controller,
                LONG_SEED,
                scenarios[place : place + SCENARIOS_A_PART],
                copies=len(some),
                first_number=place,
                plant=check.plant,
            )
    return rates


def _count(layers: NumpyLayers) -> int:
    return len(layers[0][0])


@functools.cache
def _goals(seed: int, scenarios: tuple[Scenario, ...], plant: Plant) -> Float64Array:
    """Return the success rates to reach, (1, scenarios): the LQR's, the same at every check.

    Of the starts that can be saved all are to be.
    """
    goals = success_rates(functools.partial(lqr, plant=plant), seed, scenarios, plant=plant)
    goals[:, [scenario.recoverable for scenario in scenarios]] = 1.0
    return goals


def score_of(rates: Float64Array, goals: Float64Array) -> Float64Array:
    """Return one number for each agent, (K,), from success rates (K, scenarios).

    What counts is how far each rate is below its goal; the score is 1 less the mean of the largest
    shortfall and the mean one.
    """
    shortfalls = np.maximum(goals - rates, 0.0)
    return np.asarray(1 - (shortfalls.max(axis=1) + shortfalls.mean(axis=1)) / 2)
