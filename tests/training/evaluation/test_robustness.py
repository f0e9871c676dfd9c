"""Every controller meets the same episodes, and the LQR does as well as it is known to."""

import numpy as np
import pytest

from training.evaluation.lqr import lqr
from training.evaluation.robustness import (
    SCENARIOS,
    Scenario,
    evaluate_robustness,
    success_rates,
)
from training.seeding import EVALUATION_SEEDS, TRAINING_SEEDS, VALIDATION_SEEDS
from training.types import Float32Array, Int64Array

NAMES = [scenario.name for scenario in SCENARIOS]


def test_lqr_reaches_its_known_rates() -> None:
    rates = dict(zip(NAMES, success_rates(lqr, EVALUATION_SEEDS.start)[0], strict=True))
    harder = NAMES[NAMES.index("push 1.5") :]
    hard_for_the_lqr = {name: rates.pop(name) for name in harder}
    assert 0.92 <= rates.pop("extreme") <= 0.98
    assert min(rates.values()) >= 0.98
    assert max(hard_for_the_lqr.values()) < 0.8
    assert 0.55 < hard_for_the_lqr["recovery"] < 0.65


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
        if scenario.name
        in ("extreme", "noise 0.1", "push 1", "delay 3", "40 % dropped", "recovery")
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


def test_an_action_that_gets_lost_leaves_the_last_one_acting() -> None:
    """Where every action gets lost, what was on at the start stays on, and the pole falls."""
    lost = Scenario("lost", episodes=50, dropped=1.0)
    rarely = Scenario("rarely", episodes=50, dropped=0.02)
    assert success_rates(lqr, 4, (lost,))[0, 0] == 0
    assert success_rates(lqr, 4, (rarely,))[0, 0] == 1


def test_more_recovery_starts_than_there_are_is_an_error() -> None:
    with pytest.raises(ValueError, match="has 2,000, not 2,001"):
        success_rates(lqr, 4, (Scenario("recovery", recoverable=True),), episodes=2_001)


def test_the_evaluation_of_the_lqr_by_itself_is_equal_to_the_lqr() -> None:
    def as_q_values(states: Float32Array) -> Float32Array:
        actions = lqr(states)
        return np.stack([1 - actions, actions], axis=1).astype(np.float32)

    robustness = evaluate_robustness(as_q_values, episodes=20)
    assert [each.success_rate for each in robustness.scenarios] == [
        each.lqr_success_rate for each in robustness.scenarios
    ]
    assert robustness.recovery is not None
    assert robustness.recovery.recoverable + robustness.recovery.lost > 0.96


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
