"""The starts of the scenario `recovery` are certified, and no policy is selected by them."""

import numpy as np
import pytest
from gymnasium.envs.classic_control.cartpole import CartPoleEnv

from training.envs.plant import STANDARD
from training.evaluation import recovery
from training.evaluation.lqr import lqr
from training.evaluation.recoverable import HALF_WIDTHS, planned_actions
from training.seeding import EVALUATION_SEEDS, VALIDATION_SEEDS

PURPOSES = {"evaluation": EVALUATION_SEEDS.start, "validation": VALIDATION_SEEDS.start}


@pytest.mark.parametrize("seed", PURPOSES.values(), ids=PURPOSES)
def test_each_start_in_the_file_is_saved_by_its_plan(seed: int) -> None:
    found = recovery.starts_for(seed)
    assert found.starts.shape == (recovery.STARTS, 4)
    assert (np.abs(found.starts) <= np.array(HALF_WIDTHS, np.float32)).all()
    assert recovery.saves(recovery.replay(STANDARD, found), found.starts).all()


def test_plans_also_hold_in_gymnasiums_environment_for_one_pole() -> None:
    found, environment = recovery.starts_for(EVALUATION_SEEDS.start), CartPoleEnv()
    rows = slice(0, None, 100)
    actions = planned_actions(STANDARD, found.starts[rows], found.plans[rows])
    for start, sequence in zip(found.starts[rows], actions.T, strict=True):
        environment.state, environment.steps_beyond_terminated = start, None
        for action in sequence:
            _, _, terminated, _, _ = environment.step(action)  # type: ignore[no-untyped-call] # Gymnasium's
            assert not terminated


def test_starts_of_selection_and_of_evaluation_are_others() -> None:
    evaluation, validation = (recovery.starts_for(seed).starts for seed in PURPOSES.values())
    assert not set(map(tuple, evaluation)) & set(map(tuple, validation))


def test_what_is_neither_saved_nor_lost_is_little() -> None:
    found = recovery.starts_for(EVALUATION_SEEDS.start)
    assert found.saved / found.drawn > 0.46
    assert found.lost / found.drawn > 0.49


def test_the_map_shows_what_a_controller_saves() -> None:
    drawn = recovery.draw_map(lqr)
    letters = "".join(drawn.rows)
    assert len(drawn.rows) == len(drawn.rows[0]) == recovery.MAP_SIZE
    assert {letters.count(letter) > 0 for letter in "+-?."} == {True}
    middle = drawn.rows[recovery.MAP_SIZE // 2]
    assert middle[recovery.MAP_SIZE // 2] == "+"  # at rest in the middle
    assert drawn.rows[0][-1] == "."  # at the wall, towards it
    assert letters == letters[::-1]  # mirrored at x = 0

    none = recovery.draw_map(lambda states: np.zeros(len(states), np.int64))
    assert "+" not in "".join(none.rows)
