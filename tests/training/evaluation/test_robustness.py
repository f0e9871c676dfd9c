"""The exam is the same for everybody, and the reference does as well as it is known to."""

import numpy as np

from training.evaluation.robustness import SCORECARD, Column, Float32Array, Int64Array, examine
from training.evaluation.lqr import lqr
from training.seeding import EXAM, TRAINING, VALIDATION

NAMES = [column.name for column in SCORECARD]


def test_reference_reaches_its_known_row() -> None:
    shares = dict(zip(NAMES, examine(lqr, EXAM.start)[0], strict=True))
    assert 0.92 <= shares.pop("extreme") <= 0.98
    assert min(shares.values()) >= 0.98


def test_same_seed_gives_the_same_shares_and_another_seed_other_draws() -> None:
    columns = (
        Column("extreme", runs=50, force=((1.0, 2.0),), half_length=((0.05, 1.0),), noise=0.2),
    )
    assert np.array_equal(examine(lqr, 5, columns), examine(lqr, 5, columns))
    draws = [columns[0].draw(np.random.default_rng(seed), 5).force for seed in (1, 2)]
    assert not np.array_equal(draws[0], draws[1])


def test_copies_meet_the_same_runs_as_one_alone() -> None:
    columns = tuple(
        column
        for column in SCORECARD
        if column.name in ("extreme", "noise 0.1", "push 1", "delay 3")
    )
    alone = examine(lqr, 7, columns, runs=40)
    assert np.array_equal(examine(lqr, 7, columns, runs=40, copies=3), np.repeat(alone, 3, axis=0))


def test_what_one_controller_does_changes_no_draw_of_another() -> None:
    """A column's noise and pushes come from its own stream, whatever fell before."""
    seen: list[Float32Array] = []

    def left(states: Float32Array) -> Int64Array:
        seen.append(states.copy())
        return np.zeros(len(states), np.int64)

    examine(left, 9, (Column("noise", runs=5, noise=0.1),))
    first, seen[:] = seen[0], []
    examine(lambda states: left(states) + 1, 9, (Column("noise", runs=5, noise=0.1),))
    np.testing.assert_array_equal(first, seen[0])


def test_always_left_survives_nothing() -> None:
    assert (
        examine(lambda states: np.zeros(len(states), np.int64), 3, (Column("nominal", runs=20),))[
            0, 0
        ]
        == 0
    )


def test_seeds_of_training_validation_and_exam_are_disjoint() -> None:
    assert TRAINING.stop <= VALIDATION.start
    assert VALIDATION.stop <= EXAM.start
