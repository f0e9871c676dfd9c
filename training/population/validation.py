"""Validation: what the agents of a population are worth at one check of their training.

All agents are run greedily in a few validation episodes; only those that could be selected get
many. The seeds are those of validation, so what is exported is evaluated on others. A check is a
function of the weights alone, and needs no torch, so that another process can do it.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from models.manifest import Plant
from training.envs.plant import STANDARD, steps_of
from training.evaluation.lqr import lqr
from training.evaluation.robustness import SCENARIOS, Scenario, success_rates
from training.population.numpy_layers import NumpyLayers, greedy_controller
from training.recipes import SelectionRule
from training.seeding import VALIDATION_SEEDS
from training.types import Float64Array

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

SCENARIOS_A_PART = 3  # of the long validation: some tenths of a second

SHORT_SEED, LONG_SEED = VALIDATION_SEEDS.start, VALIDATION_SEEDS.start + 1
# The long validation is for those whose short score is at most so far below the best agent's.
SCORE_MARGIN = 0.02


@dataclass(frozen=True)
class Check:
    """What is to be validated: all agents, by the rule that selects one of them."""

    rule: SelectionRule
    plant: Plant
    layers: NumpyLayers  # of the K agents
    is_long: bool  # by the rule `best`: whether the best get the long validation, too


@dataclass(frozen=True)
class CheckResult:
    """What a check found; a score of 1 is perfect."""

    short_scores: Float64Array  # (K,)
    long_scores: dict[int, float]  # by agent, of those that got the long validation, in order


def validate(check: Check) -> Iterator[CheckResult | None]:
    """Validate all agents a part at a time, so that nobody waits long for one to end.

    Yields None after each part, and the result after the last.
    """
    first = check.rule == "first"
    short_scores = _nominal_scores(check) if first else _hard_scores(check)
    waiting: list[int] = []
    if first:
        waiting = np.flatnonzero(short_scores == 1).tolist()
    elif check.is_long:
        waiting = np.flatnonzero(short_scores >= short_scores.max() - SCORE_MARGIN).tolist()

    scenarios = _nominal(check.plant) if first else HARD_LONG
    long_scores: dict[int, float] = {}
    for agent in waiting:
        rates = []
        for number in range(0, len(scenarios), SCENARIOS_A_PART):
            yield None
            part = scenarios[number : number + SCENARIOS_A_PART]
            rates.append(_long_rates(check, agent, part, number))
        long_scores[agent] = _long_score(check, np.concatenate(rates, axis=1))
        if first and long_scores[agent] == 1:
            break
    yield CheckResult(short_scores, long_scores)


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
        HARD_SCENARIOS,
        episodes=HARD_SHORT_EPISODES,
        copies=_count(check.layers),
        plant=check.plant,
    )
    return score_of(rates, _goals(SHORT_SEED, HARD_SHORT_EPISODES, check.plant))


def _long_rates(
    check: Check, agent: int, scenarios: tuple[Scenario, ...], first_number: int
) -> Float64Array:
    """Return the success rates, (1, scenarios), of one agent in many episodes."""
    controller = greedy_controller(
        [(weights[[agent]], biases[[agent]]) for weights, biases in check.layers]
    )
    return success_rates(
        controller, LONG_SEED, scenarios, first_number=first_number, plant=check.plant
    )


def _long_score(check: Check, rates: Float64Array) -> float:
    if check.rule == "first":
        return float(rates.min())
    return float(score_of(rates, _goals(LONG_SEED, None, check.plant))[0])


def _count(layers: NumpyLayers) -> int:
    return len(layers[0][0])


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
