"""What an episode is run under: plant parameters, what they are drawn from, and the reward."""

from dataclasses import dataclass, fields
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from models.manifest import Plant
from training.envs.plant import STANDARD, time_ratio
from training.snapshot import Snapshot
from training.types import BoolArray, Float32Array, Float64Array, Int64Array

LONGEST_DELAY = 4  # steps of 20 ms

# The state values at which a term of the reward reaches its weight: m, m/s, rad, rad/s.
REWARD_SCALE = ((2.4,), (3.0,), (0.21,), (3.0,))

Probability = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]
Interval = tuple[float, float]


@dataclass
class PlantParameters:
    """Plant, sensors and disturbances of n episodes: arrays (n,), one value an episode."""

    force: Float64Array  # N, of one push of the motor
    half_length: Float64Array  # m, of the pole
    pole_mass: Float64Array  # kg
    start: Float64Array  # (n, 4): each value of the first state lies in ± this
    noise: Float64Array  # standard deviation on each value as the policy observes it
    delay: Int64Array  # steps between an action and its force
    push: Float64Array  # m/s: a push changes the cart's velocity by a uniform draw in ± this

    @classmethod
    def nominal(cls, n: int, plant: Plant = STANDARD) -> "PlantParameters":
        """Return the plant as it is, n times, with the starts of CartPole-v1."""
        return cls(
            force=np.full(n, plant.force),
            half_length=np.full(n, plant.half_length),
            pole_mass=np.full(n, plant.pole_mass),
            start=np.full((n, 4), 0.05),
            noise=np.zeros(n),
            delay=np.zeros(n, np.int64),
            push=np.zeros(n),
        )

    @classmethod
    def concatenate(cls, parts: "list[PlantParameters]") -> "PlantParameters":
        """Return the parameters of all episodes of the parts, in their order."""
        return cls(
            *(np.concatenate([getattr(part, name) for part in parts]) for name in cls.names())
        )

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the names of the parameters."""
        return tuple(field.name for field in fields(cls))

    def __len__(self) -> int:
        return len(self.force)

    def assign(self, rows: Int64Array, other: "PlantParameters") -> None:
        """Replace the parameters of the episodes `rows` by those of `other`, in order."""
        for name in self.names():
            getattr(self, name)[rows] = getattr(other, name)

    def select(self, rows: Int64Array) -> "PlantParameters":
        """Return the parameters of the episodes `rows`."""
        return PlantParameters(*(getattr(self, name)[rows] for name in self.names()))

    def snapshot(self) -> Snapshot:
        """Return the parameters by name."""
        return Snapshot({name: getattr(self, name) for name in self.names()})

    @classmethod
    def from_snapshot(cls, snapshot: Snapshot) -> "PlantParameters":
        """Return the parameters of a snapshot."""
        return cls(*(snapshot.arrays[name].copy() for name in cls.names()))


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DomainRandomization(_Settings):
    """What the plant parameters of an episode are drawn from.

    The defaults draw nothing but nominal episodes. Ranges are those of the standard plant: for
    another one they are multiplied by what its value is of the standard one's.
    """

    force: Interval = Field((10.0, 10.0), description="N, log-uniform")
    half_length: Interval = Field((0.5, 0.5), description="m, of the pole, log-uniform")
    pole_mass: Interval = Field((0.1, 0.1), description="kg, log-uniform")
    start: tuple[NotNegative, NotNegative, NotNegative, NotNegative] = Field(
        (0.05, 0.05, 0.05, 0.05),
        description="half widths of the first state's ranges: m, m/s, rad, rad/s",
    )
    noise: NotNegative = Field(
        0.0,
        description="largest standard deviation of the noise on the observed state; uniform from"
        " 0 in half of the episodes, none in the others",
    )
    delay: int = Field(
        0, ge=0, le=LONGEST_DELAY, description="longest delay of an action in steps; each as likely"
    )
    push: NotNegative = Field(
        0.0, description="m/s, largest change of the cart's velocity by a push"
    )
    push_chance: Probability = Field(0.0, description="probability of a push in 20 ms")
    nominal: Probability = Field(1.0, description="share of episodes that stay nominal")

    @field_validator("force", "half_length", "pole_mass")
    @classmethod
    def _check_interval(cls, interval: Interval) -> Interval:
        low, high = interval
        if not 0 < low <= high:
            raise ValueError("expected two numbers with 0 < low ≤ high")
        return interval

    def draw(self, rng: np.random.Generator, n: int, plant: Plant = STANDARD) -> PlantParameters:
        """Draw the plant parameters of n episodes."""
        parameters = PlantParameters.nominal(n, plant)
        if self.nominal >= 1:
            return parameters

        def log_uniform(interval: Interval) -> Float64Array:
            low, high = interval
            sample: Float64Array = np.exp(rng.uniform(np.log(low), np.log(high), n))
            return sample

        # The order of the draws decides what a seed means: a change gives other policies.
        noise = rng.uniform(0, self.noise, n) * (rng.random(n) < 0.5)
        randomized = PlantParameters(
            force=log_uniform(self.force) * (plant.force / STANDARD.force),
            half_length=log_uniform(self.half_length) * (plant.half_length / STANDARD.half_length),
            pole_mass=log_uniform(self.pole_mass) * (plant.pole_mass / STANDARD.pole_mass),
            start=np.tile(self.start, (n, 1)),
            noise=noise,
            delay=rng.integers(0, self.delay + 1, n),
            push=np.full(n, self.push),
        )

        rows = np.flatnonzero(rng.random(n) >= self.nominal)
        parameters.assign(rows, randomized.select(rows))
        return parameters


class Reward(_Settings):
    """The reward of a step: `alive`, less the costs of the state after it.

    Each cost is weight · min(1, (value / scale)²). Both are those of a step of 20 ms: they are less
    for a shorter one, by as much as it is shorter.
    """

    alive: float = Field(1.0, description="reward of each step")
    fall: float | None = Field(
        None,
        description="in place of all else in the step in which the pole falls or the cart leaves"
        " the track; none rewards it as any other step",
    )
    position: float = Field(0.0, description="weight of the cart's position, scale 2.4 m")
    velocity: float = Field(0.0, description="weight of the cart's velocity, scale 3 m/s")
    angle: float = Field(0.0, description="weight of the pole's angle, scale 0.21 rad")
    angular_velocity: float = Field(
        0.0, description="weight of the pole's angular velocity, scale 3 rad/s"
    )

    def compute(
        self, states: Float64Array, terminated: BoolArray, plant: Plant = STANDARD
    ) -> Float32Array:
        """Return the rewards, (n,), of arriving in the true states, (4, n)."""
        weights = np.array((self.position, self.velocity, self.angle, self.angular_velocity))
        rewards = np.full(states.shape[1], self.alive)
        if weights.any():
            scaled = states / np.array(REWARD_SCALE)
            rewards -= weights @ np.minimum(scaled * scaled, 1.0)
        rewards *= time_ratio(plant)
        if self.fall is not None:
            rewards[terminated] = self.fall
        return rewards.astype(np.float32)
