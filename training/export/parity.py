"""Parity: whether the network and the files made of it give the same Q-values and actions."""

import numpy as np

from models.manifest import GoldenState, Parity
from training.evaluation.runtimes import PolicyFileError
from training.export.reference import Layer, Reference, reference
from training.types import Float32Array, QFunction

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


def compare(layers: list[Layer], runtimes: dict[str, QFunction], states: Float32Array) -> Parity:
    """Hold every runtime to the network in 64-bit arithmetic, on `states`, (n, 4).

    Each Q-value must lie within the bound of 32-bit rounding, whether all states are given at once
    or few, and each action must be the network's but in near ties.

    Raises `PolicyFileError`.
    """
    expected = reference(layers, states)
    near_tie = expected.near_ties()
    best = expected.q_values.argmax(axis=1)
    largest_error = {}
    for name, runtime in runtimes.items():
        q_values = runtime(states)
        largest_error[name] = _largest_error(name, q_values, expected, len(states))
        for size in BATCH_SIZES:
            _largest_error(f"{name} (batch of {size})", runtime(states[:size]), expected, size)

        differs = (q_values.argmax(axis=1) != best) & ~near_tie
        if differs.any():
            raise PolicyFileError(
                f"{name} and the network choose different actions in state"
                f" {states[differs][0].tolist()}"
            )
    return Parity(
        states=len(states),
        largest_error=largest_error,
        largest_bound=float(expected.bounds.max()),
        near_ties=int(near_tie.sum()),
    )


def golden_states(layers: list[Layer], states: Float32Array) -> tuple[GoldenState, ...]:
    """Return some of `states`, evenly picked, with their Q-values: a self-test for any backend."""
    selected = states[np.linspace(0, len(states) - 1, GOLDEN_STATES).astype(np.int64)]
    expected = reference(layers, selected)
    q_values = expected.q_values.astype(np.float32)
    # The Q-values are told in 32 bits, which errs once more.
    tolerances = (expected.bounds + np.abs(expected.q_values - q_values)).max(axis=1)
    return tuple(
        GoldenState(state=tuple(state), q_values=tuple(values), tolerance=tolerance)
        for state, values, tolerance in zip(
            selected.tolist(), q_values.tolist(), tolerances.tolist(), strict=True
        )
    )


def _largest_error(name: str, q_values: Float32Array, expected: Reference, count: int) -> float:
    """Check the Q-values of the first `count` states; return the largest error."""
    exact, bounds = expected.q_values[:count], expected.bounds[:count]
    if q_values.shape != exact.shape:
        raise PolicyFileError(
            f"{name} gives Q-values of shape {q_values.shape}, expected {exact.shape}"
        )
    error = np.abs(q_values - exact)
    # Not "above the bound": a NaN is above nothing, and must not pass.
    wrong = ~(error <= bounds)
    if wrong.any():
        row, action = (int(index) for index in np.argwhere(wrong)[0])
        raise PolicyFileError(
            f"{name} errs by {error[row, action]:.3g} in a Q-value; 32-bit rounding explains"
            f" {bounds[row, action]:.3g} there"
        )
    return float(error.max())
