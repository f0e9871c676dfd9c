"""Every controller meets the same episodes, and the LQR does as well as it is known to."""

import numpy as np

from training.evaluation.lqr import lqr
from training.evaluation.robustness import SCENARIOS, Scenario, success_rates
from training.seeding import EVALUATION_SEEDS, TRAINING_SEEDS, VALIDATION_SEEDS
from training.types import Float32Array, Int64Array

NAMES = [scenario.name for scenario in SCENARIOS]


def test_lqr_reaches_its_known_rates() -> None:
    rates = dict(zip(NAMES, success_rates(lqr, EVALUATION_SEEDS.start)[0], strict=True))
    assert 0.92 <= rates.pop("extreme") <= 0.98
    assert min(rates.values()) >= 0.98


def test_same_seed_gives_the_same_rates_and_another_seed_other_draws() -> None:
    scenarios = (
        Scenario(
            "extreme", episodes=50, force=((1.0, 2.0),), half_length=((0.05, 1.0),), noise=0.2
        ),
    )
    assert np.array_equal(success_rates(lqr, 5, scenarios), success_rates(lqr, 5, scenarios))
    draws = [scenarios[0].draw(np.random.default_rng(seed), 5).force for seed in (1, 2)]
    assert not np.array_equal(draws[0], draws[1])


def test_copies_meet_the_same_episodes_as_one_alone() -> None:
    scenarios = tuple(
        scenario
        for scenario in SCENARIOS
        if scenario.name in ("extreme", "noise 0.1", "push 1", "delay 3")
    )
    alone = success_rates(lqr, 7, scenarios, episodes=40)
    assert np.array_equal(
        success_rates(lqr, 7, scenarios, episodes=40, copies=3), np.repeat(alone, 3, axis=0)
    )


def test_what_one_controller_does_changes_no_draw_of_another() -> None:
    """A scenario's noise and pushes come from its own stream, whatever fell before."""
    observed: list[Float32Array] = []

    def left(states: Float32Array) -> Int64Array:
        observed.append(states.copy())
        return np.zeros(len(states), np.int64)

    success_rates(left, 9, (Scenario("noise", episodes=5, noise=0.1),))
    first, observed[:] = observed[0], []
    success_rates(lambda states: left(states) + 1, 9, (Scenario("noise", episodes=5, noise=0.1),))
    np.testing.assert_array_equal(first, observed[0])


def test_always_left_succeeds_nowhere() -> None:
    assert (
        success_rates(
            lambda states: np.zeros(len(states), np.int64), 3, (Scenario("nominal", episodes=20),)
        )[0, 0]
        == 0
    )


def test_seeds_of_training_validation_and_evaluation_are_disjoint() -> None:
    assert TRAINING_SEEDS.stop <= VALIDATION_SEEDS.start
    assert VALIDATION_SEEDS.stop <= EVALUATION_SEEDS.start
