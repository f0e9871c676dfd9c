"""Many carts with poles at once: actions in, states out, each episode under conditions of its own. Knows nothing of agents.

The equations of motion are Gymnasium's own (`CartPoleVectorEnv.step`); here only its parameters become arrays, one value an
environment, and what lies between plant and policy is added: sensor noise, action delay and pushes.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.vector import AutoresetMode

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

LONGEST_DELAY = 3  # steps of 20 ms


@dataclass
class Conditions:
    """What one episode is run under: one value an environment in each array (n,)."""

    force: Float64Array  # N, of one push of the motor
    half_length: Float64Array  # m, of the pole
    pole_mass: Float64Array  # kg
    start: Float64Array  # (n, 4): each value of the first state lies in ± this
    noise: Float64Array  # standard deviation on each value as the policy sees it
    delay: Int64Array  # steps between an action and its force
    push: Float64Array  # m/s, a push changes the cart's velocity by a uniform draw in ± this

    @classmethod
    def nominal(cls, n: int) -> "Conditions":
        """CartPole-v1 as Gymnasium defines it, n times."""
        force, half_length, pole_mass, noise, push = (
            np.full(n, value) for value in (10.0, 0.5, 0.1, 0.0, 0.0)
        )
        return cls(
            force, half_length, pole_mass, np.full((n, 4), 0.05), noise, np.zeros(n, np.int64), push
        )

    def __len__(self) -> int:
        return len(self.force)

    @classmethod
    def join(cls, parts: "list[Conditions]") -> "Conditions":
        """One after the other."""
        return cls(
            **{
                field.name: np.concatenate([getattr(part, field.name) for part in parts])
                for field in fields(cls)
            }
        )

    def write(self, which: Int64Array, other: "Conditions") -> None:
        """Replace the rows `which` by those of `other`, in order."""
        for field in fields(self):
            getattr(self, field.name)[which] = getattr(other, field.name)


@dataclass(frozen=True)
class Perturbations:
    """From what an episode's conditions are drawn. The defaults draw nothing but nominal episodes."""

    force: tuple[float, float] = (10.0, 10.0)  # N, log-uniform
    half_length: tuple[float, float] = (0.5, 0.5)  # m, log-uniform
    pole_mass: tuple[float, float] = (0.1, 0.1)  # kg, log-uniform
    start: tuple[float, float, float, float] = (
        0.05,
        0.05,
        0.05,
        0.05,
    )  # half widths of the first state's ranges: m, m/s, rad, rad/s
    noise: float = 0.0  # largest standard deviation, uniform from 0 in half of the episodes, none in the others
    delay: int = 0  # longest, in steps; each as likely
    push: float = 0.0  # m/s, largest
    push_chance: float = 0.0  # probability of a push in a step
    nominal: float = 1.0  # share of episodes that stay nominal

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn from."""
        for name in ("force", "half_length", "pole_mass"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(
                    f"domain_randomization.{name}: expected 0 < low ≤ high, found {low} and {high}"
                )
        for name in ("push_chance", "nominal"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f"domain_randomization.{name}: expected a share of 0 … 1, found {getattr(self, name)}"
                )
        for name in ("start", "noise", "push"):
            if np.min(getattr(self, name)) < 0:
                raise ValueError(
                    f"domain_randomization.{name}: expected nothing below 0, found {getattr(self, name)}"
                )
        if not 0 <= self.delay <= LONGEST_DELAY:
            raise ValueError(
                f"domain_randomization.delay: expected 0 … {LONGEST_DELAY} steps, found {self.delay}"
            )

    def draw(self, rng: np.random.Generator, n: int) -> Conditions:
        """Conditions of n episodes."""
        conditions = Conditions.nominal(n)
        if self.nominal >= 1:
            return conditions

        def log_uniform(low: float, high: float) -> Float64Array:
            drawn: Float64Array = np.exp(rng.uniform(np.log(low), np.log(high), n))
            return drawn

        noise = rng.uniform(0, self.noise, n) * (rng.random(n) < 0.5)
        perturbed = Conditions(
            log_uniform(*self.force),
            log_uniform(*self.half_length),
            log_uniform(*self.pole_mass),
            np.tile(self.start, (n, 1)),
            noise,
            rng.integers(0, self.delay + 1, n),
            np.full(n, self.push),
        )
        which = np.flatnonzero(rng.random(n) >= self.nominal)
        for field in fields(conditions):
            getattr(conditions, field.name)[which] = getattr(perturbed, field.name)[which]
        return conditions


@dataclass(frozen=True)
class Reward:
    """What a step pays: `alive`, less what the state after it costs; each term is weight · min(1, (value / scale)²)."""

    alive: float = 1.0  # each step
    fall: float | None = (
        None  # in place of all else in the step in which the pole or the cart is lost; none pays that step as any other
    )
    position: float = 0.0  # weight of the cart's position, scale 2.4 m
    velocity: float = 0.0  # weight of the cart's velocity, scale 3 m/s
    angle: float = 0.0  # weight of the pole's angle, scale 0.21 rad
    angular_velocity: float = 0.0  # weight of the pole's angular velocity, scale 3 rad/s

    def of(self, states: Float64Array, terminated: BoolArray) -> Float32Array:
        """Return the rewards, (n,), of arriving in the true states, (4, n)."""
        weights = np.array((self.position, self.velocity, self.angle, self.angular_velocity))
        rewards = np.full(states.shape[1], self.alive)
        if weights.any():
            scaled = states / np.array(((2.4,), (3.0,), (0.21,), (3.0,)))
            rewards -= weights @ np.minimum(scaled * scaled, 1.0)
        if self.fall is not None:
            rewards[terminated] = self.fall
        return rewards.astype(np.float32)


class CartPoles(CartPoleVectorEnv):
    """n carts under their own conditions, each going on until somebody begins a new episode in it."""

    def __init__(self, n: int, max_episode_steps: int = 500) -> None:
        super().__init__(num_envs=n, max_episode_steps=max_episode_steps)
        self.conditions = Conditions.nominal(n)
        self.state: Float64Array = np.zeros((4, n))  # type: ignore[assignment]  # Gymnasium begins with None; x m, v m/s, θ rad, ω rad/s
        self.delayed: Int64Array = np.zeros(
            (LONGEST_DELAY + 1, n), np.int64
        )  # row d: the action of d steps ago
        self._rows = np.arange(n)
        self.apply_conditions()

    def begin(self, which: Int64Array, conditions: Conditions, rng: np.random.Generator) -> None:
        """Begin an episode in each of `which`: its conditions, its first state and the actions still on their way are set."""
        n = len(which)
        self.conditions.write(which, conditions)
        self.state[:, which] = rng.uniform(-1.0, 1.0, (4, n)) * conditions.start.T
        self.delayed[:, which] = rng.integers(0, 2, (LONGEST_DELAY + 1, n))
        self.steps[which] = 0
        self.apply_conditions()

    def apply_conditions(self) -> None:
        """Set Gymnasium's parameters, the two that it derives from others included."""
        conditions = self.conditions
        self.force_mag: Any = conditions.force
        self.length: Any = conditions.half_length
        self.masspole: Any = conditions.pole_mass
        self.total_mass: Any = self.masspole + self.masscart
        self.polemass_length: Any = self.masspole * self.length
        self._any_delay = bool(conditions.delay.any())

    def move(self, actions: Int64Array) -> tuple[BoolArray, BoolArray]:
        """One step of 20 ms with the actions (n,) as decided now; returns terminated (n,) and truncated (n,)."""
        if self._any_delay:
            self.delayed[1:] = self.delayed[:-1]
            self.delayed[0] = actions
            actions = self.delayed[self.conditions.delay, self._rows]
        _, _, terminated, truncated, _ = CartPoleVectorEnv.step(self, actions)
        self.prev_done[:] = (
            False  # Gymnasium would begin the next episode one step late, with a transition that is none
        )
        return terminated, truncated

    def push(self, jumps: Float64Array) -> None:
        """Change each cart's velocity by jumps (n,), m/s."""
        self.state[1] += jumps


class PerturbedCartPole(CartPoles):
    """The training's vector environment: new conditions with each episode, which begins in the step that ended the last one."""

    def __init__(
        self, n: int, perturbations: Perturbations, reward: Reward, max_episode_steps: int = 500
    ) -> None:
        super().__init__(n, max_episode_steps)
        self.metadata = {**self.metadata, "autoreset_mode": AutoresetMode.SAME_STEP}
        self.perturbations, self.reward = perturbations, reward
        self.seen: Float32Array = np.zeros((n, 4), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Float32Array, dict[str, Any]]:
        """First states (n, 4) as seen."""
        super().reset(seed=seed, options=options)
        self.begin(
            self._rows, self.perturbations.draw(self.np_random, self.num_envs), self.np_random
        )
        self.seen = self._see()
        return self.seen, {}

    def step(
        self, action: npt.NDArray[np.integer[Any]]
    ) -> tuple[Float32Array, Float32Array, BoolArray, BoolArray, dict[str, Any]]:
        """States (n, 4) as seen, rewards, terminated, truncated (n,), and `final_obs` (n, 4): the states before new episodes began."""
        terminated, truncated = self.move(action.astype(np.int64))
        if self.perturbations.push_chance:
            chance, size = self.np_random.random((2, self.num_envs))
            self.push(
                np.where(
                    chance < self.perturbations.push_chance,
                    (2 * size - 1) * self.conditions.push,
                    0.0,
                )
            )
        rewards = self.reward.of(self.state, terminated)
        final = self._see()
        self.seen = final
        ended = np.flatnonzero(terminated | truncated)
        if len(ended):
            self.begin(ended, self.perturbations.draw(self.np_random, len(ended)), self.np_random)
            self.seen = final.copy()
            self.seen[ended] = self._see()[ended]
        return self.seen, rewards, terminated, truncated, {"final_obs": final}

    def _see(self) -> Float32Array:
        states = self.state.T
        if self.perturbations.noise:
            states = (
                states
                + self.np_random.standard_normal(states.shape) * self.conditions.noise[:, None]
            )
        return states.astype(np.float32)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Everything that the next step depends on, but for the random stream `np_random`."""
        conditions = {
            field.name: getattr(self.conditions, field.name) for field in fields(self.conditions)
        }
        return {
            "state": self.state,
            "steps": self.steps,
            "delayed": self.delayed,
            "seen": self.seen,
            **conditions,
        }

    def restore(self, arrays: dict[str, npt.NDArray[Any]]) -> None:
        """Take over what `arrays` gave."""
        self.state, self.steps, self.delayed, self.seen = (
            arrays[name].copy() for name in ("state", "steps", "delayed", "seen")
        )
        self.prev_done = np.zeros(self.num_envs, np.bool_)
        self.conditions = replace(
            self.conditions,
            **{field.name: arrays[field.name].copy() for field in fields(self.conditions)},
        )
        self.apply_conditions()
