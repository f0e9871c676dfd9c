"""The robustness evaluation: success rates in scenarios that are harder than the plant as it is.

Every controller meets the same episodes: plant parameters, first states, noise and pushes come from
the seed and never from what a controller did.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from models.manifest import Plant, Recovery, RobustnessEvaluation, ScenarioResult
from training.envs.cartpole import VectorCartPole
from training.envs.conditions import Interval, PlantParameters
from training.envs.plant import STANDARD, steps_of
from training.evaluation import recovery
from training.evaluation.lqr import lqr
from training.evaluation.recoverable import HALF_WIDTHS
from training.seeding import EVALUATION_SEEDS
from training.types import (
    BoolArray,
    Controller,
    Float32Array,
    Float64Array,
    Int64Array,
    OnStage,
    QFunction,
    no_stage,
)

# Steps of the standard plant; as long for another one.
EPISODE_STEPS = 500
PUSH_INTERVAL = 50


@dataclass(frozen=True)
class Scenario:
    """What the episodes of one scenario are run under.

    A parameter with several intervals takes one of them for each episode, each as likely. They are
    those of the standard plant: for another one they are multiplied by what its value is of the
    standard one's.
    """

    name: str
    # An episode is a success if nothing fell in so many; None: in as long as `EPISODE_STEPS`.
    steps: int | None = None
    episodes: int = 400
    force: tuple[Interval, ...] = ((10.0, 10.0),)  # N, uniform
    half_length: tuple[Interval, ...] = ((0.5, 0.5),)  # m, of the pole, uniform
    pole_mass: tuple[Interval, ...] = ((0.1, 0.1),)  # kg, uniform
    noise: float = 0.0  # standard deviation on each value as observed
    delay: int = 0  # steps
    start: float = 0.05  # half width of the ranges of the first state
    push: float = 0.0  # m/s; every 50 steps the cart's velocity changes by a uniform draw in ± this
    dropped: float = 0.0  # share of the actions that get lost: the last that arrived acts on
    recoverable: bool = False  # episodes begin in the starts that `recovery` knows can be saved
    is_required: bool = True  # by the gate; False: policy and LQR differ by less than chance

    def steps_on(self, plant: Plant) -> int:
        """Return the length of an episode."""
        return self.steps or steps_of(plant, EPISODE_STEPS)

    def draw(
        self, rng: np.random.Generator, episodes: int, plant: Plant = STANDARD
    ) -> PlantParameters:
        """Draw the plant parameters of the episodes."""

        def uniform(intervals: tuple[Interval, ...]) -> Float64Array:
            low, high = np.array(intervals)[rng.integers(0, len(intervals), episodes)].T
            sample: Float64Array = rng.uniform(low, high)
            return sample

        return PlantParameters(
            force=uniform(self.force) * (plant.force / STANDARD.force),
            half_length=uniform(self.half_length) * (plant.half_length / STANDARD.half_length),
            pole_mass=uniform(self.pole_mass) * (plant.pole_mass / STANDARD.pole_mass),
            start=np.full((episodes, 4), self.start),
            noise=np.full(episodes, self.noise),
            delay=np.full(episodes, self.delay, np.int64),
            push=np.full(episodes, self.push),
        )


# Add a scenario at the end: its place seeds its episodes, so one put in earlier would change those
# of all that follow. From "push 1.5" on they are hard for the LQR, too, as a test asserts. The page
# has the same list in `scenarios.js`. The gate asks for all that are required.
SCENARIOS: tuple[Scenario, ...] = (
    Scenario("nominal"),
    Scenario("10,000 steps", steps=10_000, episodes=100),
    Scenario(
        "moderate",
        force=((5.0, 15.0),),
        half_length=((0.25, 0.75),),
        pole_mass=((0.05, 0.5),),
    ),
    Scenario(
        "extreme",
        force=((1.0, 5.0), (15.0, 20.0)),
        half_length=((0.05, 0.25), (0.75, 1.0)),
        pole_mass=((0.01, 0.05), (0.5, 1.0)),
    ),
    Scenario("noise 0.01", noise=0.01),
    Scenario("noise 0.05", noise=0.05),
    Scenario("noise 0.1", noise=0.1),
    Scenario("delay 1", delay=1),
    Scenario("delay 2", delay=2),
    Scenario("delay 3", delay=3),
    Scenario("start ±0.2", start=0.2),
    Scenario("push 0.5", push=0.5),
    Scenario("push 1", push=1.0),
    Scenario("push 1.5", push=1.5),
    Scenario("push 2", push=2.0),
    Scenario("noise 0.15", noise=0.15),
    Scenario("delay 4", delay=4),
    Scenario("heavy long pole", half_length=((0.5, 1.5),), pole_mass=((0.5, 2.0),)),
    Scenario("40 % dropped", dropped=0.4, is_required=False),
    Scenario("noise, delay, pushes", noise=0.05, delay=2, push=0.7),
    Scenario("recovery", episodes=recovery.STARTS, recoverable=True),
)


def evaluate_robustness(
    q_values: QFunction,
    *,
    seed: int = EVALUATION_SEEDS.start,
    episodes: int | None = None,
    on_stage: OnStage = no_stage,
    plant: Plant = STANDARD,
) -> RobustnessEvaluation:
    """Run a policy and the LQR in the same episodes of every scenario.

    `episodes` replaces each scenario's own number.
    """

    def policy_and_lqr(states: Float32Array) -> Int64Array:
        middle = len(states) // 2
        return np.concatenate(
            [q_values(states[:middle]).argmax(axis=1), lqr(states[middle:], plant)]
        )

    policy_rates, lqr_rates = success_rates(
        policy_and_lqr, seed, episodes=episodes, copies=2, on_stage=on_stage, plant=plant
    )
    results = (
        ScenarioResult(
            name=scenario.name,
            steps=scenario.steps_on(plant),
            episodes=_count_episodes(scenario, episodes, seed, plant),
            success_rate=float(policy_rate),
            lqr_success_rate=float(lqr_rate),
            is_required=scenario.is_required,
        )
        for scenario, policy_rate, lqr_rate in zip(SCENARIOS, policy_rates, lqr_rates, strict=True)
    )
    on_stage("the map of what is saved", 0.0)
    return RobustnessEvaluation(
        seed=seed, scenarios=tuple(results), recovery=_recovery(q_values, seed, plant)
    )


def _count_episodes(scenario: Scenario, episodes: int | None, seed: int, plant: Plant) -> int:
    """Return the number of episodes: of `recovery`, no more than there are starts to begin in."""
    count = episodes or scenario.episodes
    if not scenario.recoverable:
        return count
    if count > recovery.STARTS:
        raise ValueError(
            f"episodes: the scenario {scenario.name} has {recovery.STARTS:,}, not {count:,}"
        )
    return min(count, len(recovery.starts_for(seed, plant).starts))


def _recovery(q_values: QFunction, seed: int, plant: Plant) -> Recovery:
    """Return what the scenario `recovery` is a part of, and the map of what the policy saves."""
    starts = recovery.starts_for(seed, plant)
    return Recovery(
        half_widths=HALF_WIDTHS,
        drawn=starts.drawn,
        recoverable=starts.saved / starts.drawn,
        lost=starts.lost / starts.drawn,
        map=recovery.draw_map(lambda states: q_values(states).argmax(axis=1), plant),
    )


def success_rates(
    controller: Controller,
    seed: int,
    scenarios: tuple[Scenario, ...] = SCENARIOS,
    *,
    episodes: int | None = None,
    copies: int = 1,
    first_number: int = 0,
    on_stage: OnStage = no_stage,
    plant: Plant = STANDARD,
) -> Float64Array:
    """Return the success rates, (copies, scenarios), of a controller.

    `episodes` replaces each scenario's own number. With `copies` = K the controller is K agents: it
    gets states (K · n, 4), agent by agent, and each agent meets the same n episodes. Each scenario
    has random numbers by its place; `first_number` is the place of the first where these scenarios
    are a part of others.
    """
    rates = np.zeros((copies, len(scenarios)))
    for steps in sorted({scenario.steps_on(plant) for scenario in scenarios}):
        groups = [
            _Group(number, scenario, _count_episodes(scenario, episodes, seed, plant), seed)
            for number, scenario in enumerate(scenarios, first_number)
            if scenario.steps_on(plant) == steps
        ]
        successes = _run(controller, groups, steps, copies, on_stage, plant)
        for group, succeeded in zip(groups, successes, strict=True):
            rates[:, group.number - first_number] = succeeded.mean(axis=1)
    return rates


class _Group:
    """The episodes of one scenario, with a random stream of their own."""

    def __init__(self, number: int, scenario: Scenario, episodes: int, seed: int) -> None:
        self.number, self.scenario, self.episodes, self.seed = number, scenario, episodes, seed
        self.rng = np.random.default_rng((seed, number))


def _run(
    controller: Controller,
    groups: Sequence[_Group],
    steps: int,
    copies: int,
    on_stage: OnStage,
    plant: Plant,
) -> list[BoolArray]:
    """Return which episodes succeeded, (copies, episodes) for each group.

    All scenarios of one length are run in one vector environment.
    """
    ends = list(accumulate(group.episodes for group in groups))
    slices = [slice(end - group.episodes, end) for group, end in zip(groups, ends, strict=True)]
    total = ends[-1]

    environment = _begin(groups, slices, steps, copies, plant)
    disturbances = _Disturbances(groups, slices, environment.action_history[0])
    running = np.ones(copies * total, np.bool_)
    names = groups[0].scenario.name if len(groups) == 1 else f"{len(groups)} scenarios"
    push_interval = steps_of(plant, PUSH_INTERVAL)
    for step in range(steps):
        on_stage(f"robustness: {names}, {steps:,} steps", step / steps)
        if step and step % push_interval == 0:
            environment.push(np.tile(disturbances.pushes(), copies))

        observed_states = disturbances.add_noise(environment.state.T).astype(np.float32)
        actions = disturbances.drop(controller(observed_states))
        terminated, _ = environment.advance(actions)

        running &= ~terminated
        # A fallen pole stays fallen; its numbers must not overflow.
        environment.state[:, ~running] = 0.0
        if not running.any():
            break
    return [running.reshape(copies, total)[:, rows] for rows in slices]


def _begin(
    groups: Sequence[_Group], slices: Sequence[slice], steps: int, copies: int, plant: Plant
) -> VectorCartPole:
    """Return an environment at the start of the same episodes for each copy."""
    drawn = VectorCartPole(slices[-1].stop, plant=plant)
    for group, rows in zip(groups, slices, strict=True):
        parameters = group.scenario.draw(group.rng, group.episodes, plant)
        drawn.begin_episodes(np.arange(rows.start, rows.stop), parameters, group.rng)
        if group.scenario.recoverable:
            starts = recovery.starts_for(group.seed, plant).starts
            drawn.state[:, rows] = starts[: group.episodes].T

    environment = VectorCartPole(copies * slices[-1].stop, steps, plant)
    environment.parameters = PlantParameters.concatenate([drawn.parameters] * copies)
    environment.state = np.tile(drawn.state, copies)
    environment.action_history = np.tile(drawn.action_history, copies)
    environment.apply_parameters()
    return environment


class _Disturbances:
    """Noise, pushes and lost actions, each scenario's from its own stream: equal for every copy."""

    def __init__(
        self, groups: Sequence[_Group], slices: Sequence[slice], last_actions: Int64Array
    ) -> None:
        pairs = list(zip(groups, slices, strict=True))
        total = slices[-1].stop
        self._noisy = [(group, rows) for group, rows in pairs if group.scenario.noise]
        self._pushed = [(group, rows) for group, rows in pairs if group.scenario.push]
        self._dropping = [(group, rows) for group, rows in pairs if group.scenario.dropped]
        self._noise, self._pushes = np.zeros((total, 4)), np.zeros(total)
        self._dropped = np.zeros(total, np.bool_)
        self._last_actions = last_actions.reshape(-1, total).copy()  # (copies, total)

    def pushes(self) -> Float64Array:
        """Draw the change of each cart's velocity, (total,), m/s."""
        for group, rows in self._pushed:
            size = group.scenario.push
            self._pushes[rows] = group.rng.uniform(-size, size, group.episodes)
        return self._pushes

    def add_noise(self, states: Float64Array) -> Float64Array:
        """Return the states, (copies · total, 4), with newly drawn noise."""
        if not self._noisy:
            return states
        for group, rows in self._noisy:
            noise = group.rng.standard_normal((group.episodes, 4))
            self._noise[rows] = noise * group.scenario.noise
        return (states.reshape(-1, *self._noise.shape) + self._noise).reshape(-1, 4)

    def drop(self, actions: Int64Array) -> Int64Array:
        """Return the actions, (copies · total,), that act where some of these get lost."""
        if not self._dropping:
            return actions
        for group, rows in self._dropping:
            self._dropped[rows] = group.rng.random(group.episodes) < group.scenario.dropped
        chosen = actions.reshape(self._last_actions.shape)
        self._last_actions = np.where(self._dropped, self._last_actions, chosen)
        return self._last_actions.reshape(-1)
