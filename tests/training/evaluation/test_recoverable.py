"""What can be saved is shown by a sequence of actions, and what is lost by a proof."""

import numpy as np
import pytest
from gymnasium.envs.classic_control.cartpole import CartPoleEnv

from models.manifest import Plant
from training.envs.plant import step, steps_of
from training.evaluation.recoverable import (
    HALF_WIDTHS,
    STEPS,
    UnprovenError,
    draw_starts,
    inside,
    judge,
    planned_actions,
    proven_lost,
)
from training.types import Float64Array

NOMINAL = Plant()
PLANTS = {
    "nominal": NOMINAL,
    "heavy pole at 100 Hz": Plant(pole_mass=0.3, step_seconds=0.01),
    "weak motor": Plant(force=3.0),
    "long heavy pole": Plant(pole_mass=1.0, half_length=1.0),
}


def starts(n: int, seed: int = 3) -> Float64Array:
    return draw_starts(np.random.default_rng(seed), n)


def test_the_steps_are_gymnasiums() -> None:
    environment, states = CartPoleEnv(), starts(50)
    stepped = step(NOMINAL, states.T.copy(), np.arange(50) % 2 == 1)
    for column, state in enumerate(states):
        environment.state, environment.steps_beyond_terminated = state, None
        environment.step(column % 2)  # type: ignore[no-untyped-call] # Gymnasium's
        assert environment.state is not None
        np.testing.assert_allclose(stepped[:, column], environment.state, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("plant", PLANTS.values(), ids=PLANTS)
def test_no_start_is_both_saved_and_lost_and_few_are_neither(plant: Plant) -> None:
    verdicts = judge(plant, starts(400))
    assert not (verdicts.saved & verdicts.lost).any()
    assert np.mean(verdicts.saved | verdicts.lost) > 0.93
    assert 0.1 < verdicts.saved.mean() < 0.6


@pytest.mark.parametrize("plant", PLANTS.values(), ids=PLANTS)
def test_a_plan_saves_its_start(plant: Plant) -> None:
    drawn = starts(200)
    verdicts = judge(plant, drawn)
    saved = drawn[verdicts.saved]
    actions = planned_actions(plant, saved, verdicts.plans[verdicts.saved])
    assert actions.shape == (steps_of(plant, STEPS), len(saved))

    states = saved.T.copy()
    for right in actions:
        states = step(plant, states, right == 1)
        assert inside(states).all()


def test_random_actions_save_no_start_that_is_proven_lost() -> None:
    """Some 200 random sequences, with long stretches of one action, for each of the starts."""
    rng = np.random.default_rng(5)
    states = np.repeat(starts(300).T, 200, axis=1)
    lost = proven_lost(NOMINAL, states)
    alive, pushes = np.ones(len(lost), np.bool_), rng.random(len(lost)) < 0.5
    for _ in range(STEPS):
        pushes ^= rng.random(len(pushes)) < 0.2
        states = step(NOMINAL, states, pushes)
        alive &= inside(states)
        states[:, ~alive] = 0.0
    assert not (alive & lost).any()


def test_one_way_all_the_time_bounds_what_is_lost() -> None:
    """A pole that falls over under full force either way is lost; one at rest is not."""
    falling = np.array([[0.0], [0.0], [0.2], [3.0]])
    assert proven_lost(NOMINAL, falling).all()
    assert proven_lost(NOMINAL, -falling).all()
    assert not proven_lost(NOMINAL, np.zeros((4, 1))).any()
    at_the_wall = np.array([[2.3], [2.0], [0.0], [0.0]])
    assert proven_lost(NOMINAL, at_the_wall).all()


def test_the_mirrored_start_has_the_same_verdict() -> None:
    states = starts(500).T
    np.testing.assert_array_equal(proven_lost(NOMINAL, states), proven_lost(NOMINAL, -states))


def test_a_plant_for_which_nothing_is_proven_is_refused() -> None:
    with pytest.raises(ValueError, match="do not keep the order"):
        proven_lost(Plant(force=100.0), np.zeros((4, 1)))


def test_with_friction_nothing_is_proven_and_starts_are_saved_all_the_same() -> None:
    braked = Plant(friction=2.0)
    with pytest.raises(UnprovenError, match="with friction"):
        proven_lost(braked, np.zeros((4, 1)))
    verdicts = judge(braked, starts(100))
    assert not verdicts.lost.any()
    assert 0.1 < verdicts.saved.mean() < 0.6


def test_starts_lie_in_the_box_and_fill_it() -> None:
    widest = np.abs(starts(2_000)).max(axis=0)
    assert (widest <= HALF_WIDTHS).all()
    assert (widest >= 0.99 * np.array(HALF_WIDTHS)).all()
