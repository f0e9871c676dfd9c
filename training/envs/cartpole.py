"""CartPole as n environments side by side, each episode under plant parameters of its own.

The equations of motion are Gymnasium's own (`CartPoleVectorEnv.step`): here its parameters become
arrays with one value for each environment, and friction, sensor noise, action delay and pushes are
added.
"""

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.vector import AutoresetMode

from models.manifest import Plant
from training.envs.conditions import LONGEST_DELAY, DomainRandomization, PlantParameters, Reward
from training.envs.plant import STANDARD, steps_of, time_ratio
from training.seeding import generator_state, set_generator_state
from training.snapshot import Snapshot
from training.types import Array, BoolArray, Float32Array, Float64Array, Int64Array

ENVIRONMENT = "CartPole-v1"


def time_limit(plant: Plant = STANDARD) -> int:
    """Return the number of steps after which Gymnasium truncates an episode of CartPole-v1.

    For another plant it is the number that lasts as long.
    """
    limit = gym.spec(ENVIRONMENT).max_episode_steps
    assert limit is not None
    return steps_of(plant, limit)


class VectorCartPole(CartPoleVectorEnv):
    """n environments, each of which goes on until `begin_episodes` is called for it."""

    def __init__(self, n: int, max_episode_steps: int = 500, plant: Plant = STANDARD) -> None:
        super().__init__(num_envs=n, max_episode_steps=max_episode_steps)
        self.plant = plant
        self.gravity, self.masscart, self.tau = plant.gravity, plant.cart_mass, plant.step_seconds
        self.parameters = PlantParameters.nominal(n, plant)
        # The true states, (4, n): x m, v m/s, θ rad, ω rad/s.
        self.state: Float64Array = np.zeros((4, n))  # type: ignore[assignment] # None in Gymnasium
        # Row d holds the actions of d steps ago.
        self.action_history: Int64Array = np.zeros((LONGEST_DELAY + 1, n), np.int64)
        self._rows = np.arange(n)
        self.apply_parameters()

    def begin_episodes(
        self, rows: Int64Array, parameters: PlantParameters, rng: np.random.Generator
    ) -> None:
        """Begin an episode in each of the environments `rows`.

        Sets their plant parameters and draws their first states and the actions that are still
        delayed.
        """
        n = len(rows)
        self.parameters.assign(rows, parameters)
        self.state[:, rows] = rng.uniform(-1.0, 1.0, (4, n)) * parameters.start.T
        self.action_history[:, rows] = rng.integers(0, 2, (LONGEST_DELAY + 1, n))
        self.steps[rows] = 0
        self.apply_parameters()

    def apply_parameters(self) -> None:
        """Set Gymnasium's parameters, the two that it derives from others included."""
        parameters = self.parameters
        self.force_mag: Any = parameters.force
        self.length: Any = parameters.half_length
        self.masspole: Any = parameters.pole_mass
        self.total_mass: Any = self.masspole + self.masscart
        self.polemass_length: Any = self.masspole * self.length
        self._any_delay = bool(parameters.delay.any())

    def advance(self, actions: Int64Array) -> tuple[BoolArray, BoolArray]:
        """Take one step of the plant with the actions, (n,), chosen now.

        Returns terminated, (n,), and truncated, (n,).
        """
        if self._any_delay:
            self.action_history[1:] = self.action_history[:-1]
            self.action_history[0] = actions
            actions = self.action_history[self.parameters.delay, self._rows]
        _, velocity, angle, _ = self.state
        _, _, terminated, truncated, _ = CartPoleVectorEnv.step(self, actions)
        if self.plant.friction:
            self._brake(velocity, angle)

        # Gymnasium would begin the next episode one step late, with a transition that is none.
        self.prev_done[:] = False
        return terminated, truncated

    def _brake(self, velocity: Float64Array, angle: Float64Array) -> None:
        """Add what friction does in a step that began with these velocities and angles, (n,).

        The accelerations are linear in the force, so it can be added to Gymnasium's step.
        """
        cosine = np.cos(angle)
        push = -self.plant.friction * velocity / self.total_mass
        angular = (
            -cosine
            * push
            / (self.length * (4.0 / 3.0 - self.masspole * np.square(cosine) / self.total_mass))
        )
        self.state[1] += self.tau * (
            push - self.polemass_length * angular * cosine / self.total_mass
        )
        self.state[3] += self.tau * angular

    def push(self, velocity_changes: Float64Array) -> None:
        """Change the velocity of each cart by `velocity_changes`, (n,), in m/s."""
        self.state[1] += velocity_changes


class RandomizedCartPole(VectorCartPole):
    """The environment of training: each episode draws its plant parameters anew.

    The next episode begins in the step that ended the last one.
    """

    def __init__(
        self,
        n: int,
        domain_randomization: DomainRandomization,
        reward: Reward,
        max_episode_steps: int = 500,
        plant: Plant = STANDARD,
    ) -> None:
        """Make n environments whose episodes are as long as so many steps of the standard plant."""
        super().__init__(n, steps_of(plant, max_episode_steps), plant)
        self.metadata = {**self.metadata, "autoreset_mode": AutoresetMode.SAME_STEP}
        self.domain_randomization, self.reward = domain_randomization, reward
        self.observed_states: Float32Array = np.zeros((n, 4), np.float32)  # with sensor noise

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Float32Array, dict[str, Any]]:
        """Begin an episode in every environment; returns the first observed states, (n, 4)."""
        super().reset(seed=seed, options=options)
        parameters = self.domain_randomization.draw(self.np_random, self.num_envs, self.plant)
        self.begin_episodes(self._rows, parameters, self.np_random)
        self.observed_states = self._observe()
        return self.observed_states, {}

    def step(
        self, action: npt.NDArray[np.integer[Any]]
    ) -> tuple[Float32Array, Float32Array, BoolArray, BoolArray, dict[str, Any]]:
        """Take one step with the actions, (n,).

        Returns the observed states, (n, 4), rewards, terminated and truncated, (n,), and as
        `final_obs`, (n, 4), the observed states before the next episodes began.
        """
        terminated, truncated = self.advance(action.astype(np.int64))
        self._push_at_random()
        rewards = self.reward.compute(self.state, terminated, self.plant)
        final_states = self._observe()

        self.observed_states = final_states
        ended = np.flatnonzero(terminated | truncated)
        if len(ended):
            parameters = self.domain_randomization.draw(self.np_random, len(ended), self.plant)
            self.begin_episodes(ended, parameters, self.np_random)
            self.observed_states = final_states.copy()
            self.observed_states[ended] = self._observe()[ended]
        return self.observed_states, rewards, terminated, truncated, {"final_obs": final_states}

    def _push_at_random(self) -> None:
        push_chance = self.domain_randomization.push_chance * time_ratio(self.plant)
        if push_chance:
            chance, size = self.np_random.random((2, self.num_envs))
            changes = (2 * size - 1) * self.parameters.push
            self.push(np.where(chance < push_chance, changes, 0.0))

    def _observe(self) -> Float32Array:
        states = self.state.T
        if self.domain_randomization.noise:
            noise = self.np_random.standard_normal(states.shape)
            states = states + noise * self.parameters.noise[:, None]
        return states.astype(np.float32)

    def snapshot(self) -> Snapshot:
        """Return all that the next step depends on."""
        arrays: dict[str, Array] = {
            "state": self.state,
            "steps": self.steps,
            "action_history": self.action_history,
            "observed_states": self.observed_states,
        }
        return Snapshot(
            arrays,
            {"rng": generator_state(self.np_random)},
            {"parameters": self.parameters.snapshot()},
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Take over the state of a snapshot."""
        arrays = snapshot.arrays
        self.state, self.steps = arrays["state"].copy(), arrays["steps"].copy()
        self.action_history = arrays["action_history"].copy()
        self.observed_states = arrays["observed_states"].copy()
        self.prev_done = np.zeros(self.num_envs, np.bool_)

        self.parameters = PlantParameters.from_snapshot(snapshot.parts["parameters"])
        self.apply_parameters()
        set_generator_state(self.np_random, snapshot.values["rng"])
