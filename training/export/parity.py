"""Parity: whether the network and the files made of it give the same Q-values and actions."""

from itertools import combinations

import numpy as np

from models.manifest import GoldenState, Parity
from training.evaluation.runtimes import PolicyFileError
from training.types import BoolArray, Float32Array, QFunction

ABSOLUTE_TOLERANCE = 1e-5
RELATIVE_TOLERANCE = 1e-5
STATES = 10_000
# Beside the whole 10,000, so that no batch size was special to the exporter.
BATCH_SIZES = (1, 2, 7, 64)
GOLDEN_STATES = 16


def states_to_compare(
    on_policy: Float32Array, low: Float32Array, high: Float32Array, rng: np.random.Generator
) -> Float32Array:
    """Return `STATES` states, (STATES, 4), at random.

    Two fifths are of `on_policy`, (n, 4), two fifths uniform inside the bounds, and the rest has
    values at a bound. `low` and `high`, (4,), are finite: where the environment has no bound, the
    range in training.
    """
    visited = on_policy[rng.integers(len(on_policy), size=STATES * 2 // 5)]
    uniform = rng.uniform(low, high, (STATES * 2 // 5, len(low)))

    count = STATES - len(visited) - len(uniform)
    inside = rng.uniform(low, high, (count, len(low)))
    bound = np.where(rng.random(inside.shape) < 0.5, low, high)
    at_bound = rng.random(inside.shape) < 0.5
    # At least one value of each of these states.
    at_bound[np.arange(count), rng.integers(len(low), size=count)] = True

    states = np.concatenate([visited, uniform, np.where(at_bound, bound, inside)])
    # Rounding to 32 bits may step over a bound by one unit in the last place.
    return np.clip(states.astype(np.float32), low, high)


def compare(runtimes: dict[str, QFunction], states: Float32Array) -> Parity:
    """Check that every runtime gives the same Q-values and actions on `states`, (n, 4).

    The same: |ΔQ| ≤ 1e-5 + 1e-5 · |Q| in every pair, and equal actions wherever the two best
    Q-values differ by more than twice that. All states at once and small batches must agree, too.

    Raises `PolicyFileError`.
    """
    q_values = {name: runtime(states) for name, runtime in runtimes.items()}
    for name, runtime in runtimes.items():
        _check_batches(name, runtime, states, q_values[name])

    largest_difference = {
        f"{one} - {other}": _largest_difference(one, q_values[one], other, q_values[other])
        for one, other in combinations(q_values, 2)
    }
    near_tie = _check_actions(q_values, states)
    return Parity(
        states=len(states),
        absolute_tolerance=ABSOLUTE_TOLERANCE,
        relative_tolerance=RELATIVE_TOLERANCE,
        largest_difference=largest_difference,
        near_ties=int(near_tie.sum()),
    )


def _check_batches(
    name: str, runtime: QFunction, states: Float32Array, q_values: Float32Array
) -> None:
    for size in BATCH_SIZES:
        batch, expected = runtime(states[:size]), q_values[:size]
        if batch.shape != expected.shape:
            raise PolicyFileError(
                f"{name}: a batch of {size} states gives Q-values of shape {batch.shape}"
            )
        _largest_difference(f"{name} (batch of {size})", batch, name, expected)


def _check_actions(q_values: dict[str, Float32Array], states: Float32Array) -> BoolArray:
    """Check that all choose the same actions, and return where there is a near tie, (n,)."""
    first = next(iter(q_values.values()))
    ordered = np.sort(first, axis=1)
    near_tie: BoolArray = ordered[:, -1] - ordered[:, -2] <= 2 * _tolerance(first).max(axis=1)

    for one, other in combinations(q_values, 2):
        differs = (q_values[one].argmax(axis=1) != q_values[other].argmax(axis=1)) & ~near_tie
        if differs.any():
            raise PolicyFileError(
                f"{one} and {other} choose different actions in state {states[differs][0].tolist()}"
            )
    return near_tie


def golden_states(q_function: QFunction, states: Float32Array) -> tuple[GoldenState, ...]:
    """Return some of `states`, evenly picked, with their Q-values: a self-test for any backend."""
    selected = states[np.linspace(0, len(states) - 1, GOLDEN_STATES).astype(np.int64)]
    q_values = q_function(selected)
    return tuple(
        GoldenState(state=tuple(state), q_values=tuple(values))
        for state, values in zip(selected.tolist(), q_values.tolist(), strict=True)
    )


def _tolerance(q_values: Float32Array) -> Float32Array:
    return np.float32(ABSOLUTE_TOLERANCE) + np.float32(RELATIVE_TOLERANCE) * np.abs(q_values)


def _largest_difference(one: str, q_one: Float32Array, other: str, q_other: Float32Array) -> float:
    difference = np.abs(q_one - q_other)
    # Not "above the tolerance": a NaN is above nothing, and must not pass.
    if not (difference <= _tolerance(q_one)).all():
        raise PolicyFileError(
            f"{one} and {other} differ by up to {difference.max():.3g} in Q;"
            " allowed is 1e-5 + 1e-5 · |Q|"
        )
    return float(difference.max())
