"""A plant of the user's own: its physics, and what is scaled to it."""

import numpy as np
import pytest
from pydantic import ValidationError

from models.manifest import Plant
from training.envs.cartpole import RandomizedCartPole, VectorCartPole, time_limit
from training.envs.conditions import DomainRandomization, PlantParameters, Reward
from training.envs.plant import STANDARD, step, steps_of, time_ratio
from training.evaluation.episodes import run_episodes
from training.evaluation.lqr import lqr
from training.evaluation.robustness import SCENARIOS, Scenario, success_rates
from training.types import Float32Array, Int64Array

HEAVY = Plant(pole_mass=0.3, step_seconds=0.01)
PLANTS = {
    "standard": STANDARD,
    "heavy pole at 100 Hz": HEAVY,
    "with friction": Plant(friction=3.0, cart_mass=2.0, half_length=0.8),
    "on the moon": Plant(gravity=1.62, force=4.0, step_seconds=0.04),
}


@pytest.mark.parametrize("plant", PLANTS.values(), ids=PLANTS)
def test_the_environment_steps_as_the_equations_say(plant: Plant) -> None:
    rng = np.random.default_rng(1)
    environment = VectorCartPole(200, plant=plant)
    environment.state = rng.uniform(-1, 1, (4, 200)) * np.array([[2.0], [3.0], [0.2], [3.0]])
    for _ in range(20):
        actions = rng.integers(0, 2, 200)
        expected = step(plant, environment.state, actions == 1)
        environment.advance(actions)
        np.testing.assert_allclose(environment.state, expected, rtol=1e-9, atol=1e-12)


def test_the_standard_plant_is_scaled_by_nothing_to_the_bit() -> None:
    assert time_ratio(STANDARD) == 1
    assert [steps_of(STANDARD, steps) for steps in (1, 50, 500)] == [1, 50, 500]
    ranges = DomainRandomization(
        force=(3.0, 17.0), half_length=(0.2, 0.9), pole_mass=(0.03, 0.7), nominal=0.0
    )
    drawn = ranges.draw(np.random.default_rng(2), 50, STANDARD)
    rng = np.random.default_rng(2)
    rng.uniform(0, 0.0, 50), rng.random(50)  # of the noise
    np.testing.assert_array_equal(drawn.force, np.exp(rng.uniform(np.log(3.0), np.log(17.0), 50)))


def test_an_episode_lasts_as_many_seconds_on_every_plant() -> None:
    assert (time_limit(), time_limit(HEAVY)) == (500, 1_000)
    lengths = {each.name: each.steps_on(HEAVY) for each in SCENARIOS}
    assert (lengths["nominal"], lengths["10,000 steps"]) == (1_000, 10_000)
    environment = RandomizedCartPole(1, DomainRandomization(), Reward(), plant=HEAVY)
    environment.reset(seed=0)
    assert environment.max_episode_steps == 1_000


def test_ranges_are_multiplied_by_what_the_plant_is_of_the_standard_one() -> None:
    plant = Plant(force=20.0, half_length=0.25, pole_mass=0.3)
    ranges = DomainRandomization(
        force=(5.0, 15.0), half_length=(0.25, 0.75), pole_mass=(0.05, 0.5), nominal=0.0
    )
    scenario = Scenario(
        "all", force=((5.0, 15.0),), half_length=((0.25, 0.75),), pole_mass=((0.05, 0.5),)
    )
    for draw in (ranges.draw, scenario.draw):
        standard = draw(np.random.default_rng(3), 40)
        scaled = draw(np.random.default_rng(3), 40, plant)
        np.testing.assert_allclose(scaled.force, 2 * standard.force)
        np.testing.assert_allclose(scaled.half_length, standard.half_length / 2)
        np.testing.assert_allclose(scaled.pole_mass, 3 * standard.pole_mass)
        np.testing.assert_array_equal(scaled.push, standard.push)
    nominal = PlantParameters.nominal(2, plant)
    assert nominal.force.tolist() == [20.0, 20.0]


def test_rewards_and_pushes_are_those_of_a_steps_length() -> None:
    states, terminated = np.full((4, 2), 0.1), np.array([False, True])
    reward = Reward(alive=1.0, fall=-20.0, angle=0.5)
    standard = reward.compute(states, terminated)
    shorter = reward.compute(states, terminated, HEAVY)
    assert shorter.tolist() == pytest.approx([standard[0] / 2, -20.0])

    pushed = []
    for plant in (STANDARD, HEAVY):
        environment = RandomizedCartPole(
            20_000, DomainRandomization(push=1.0, push_chance=0.1, nominal=0.0), reward, 500, plant
        )
        environment.reset(seed=1)
        before = environment.state[1].copy()
        environment.step(np.zeros(20_000, np.int64))
        change = environment.state[1] - before
        # Without a push each cart gets nearly the same velocity.
        pushed.append(np.mean(np.abs(change - np.median(change)) > 0.02))
    assert pushed[0] == pytest.approx(0.1, abs=0.01)
    assert pushed[1] == pytest.approx(0.05, abs=0.01)


@pytest.mark.parametrize("plant", PLANTS.values(), ids=PLANTS)
def test_the_lqr_is_that_of_the_plant(plant: Plant) -> None:
    def controller(states: Float32Array) -> Int64Array:
        return lqr(states, plant)

    def q_values(states: Float32Array) -> Float32Array:
        actions = controller(states)
        return np.stack([1 - actions, actions], axis=1).astype(np.float32)

    assert run_episodes(q_values, episodes=20, plant=plant).steps.min() == time_limit(plant)
    scenarios = (Scenario("nominal", episodes=20), Scenario("push", episodes=20, push=0.1))
    assert success_rates(controller, 1, scenarios, plant=plant).min() == 1


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"cart_mass": 0}, "cart_mass"),
        ({"pole_mass": -0.1}, "pole_mass"),
        ({"half_length": float("nan")}, "half_length"),
        ({"force": float("inf")}, "force"),
        ({"gravity": 0}, "gravity"),
        ({"step_seconds": 1}, "step_seconds"),
        ({"friction": -1}, "friction"),
        ({"friction": 50}, "at most 20% can be simulated"),
    ],
)
def test_a_plant_out_of_range_is_refused(values: dict[str, float], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        Plant(**values)
