"""Parity: files and network in, proof that they give the same Q-values and actions out. Knows nothing of how they were made."""

import numpy as np
from numpy.typing import NDArray

from models.manifest import GoldenState, Parity
from training.evaluation.episodes import QFunction
from training.export.formats import ExportError

ABSOLUTE_TOLERANCE = 1e-5
RELATIVE_TOLERANCE = 1e-5
STATES = 10_000
BATCHES = (
    1,
    2,
    7,
    64,
)  # beside the whole 10,000, so that no batch size was special to the exporter
GOLDEN_STATES = 16


def states_to_compare(
    played: NDArray[np.float32],
    low: NDArray[np.float32],
    high: NDArray[np.float32],
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Return `STATES` states: on-policy ones of `played`, uniform ones inside the bounds, and ones with values at a bound.

    `low` and `high`, (4,), are finite: where the environment has no bound, what training saw.
    """
    on_policy = played[rng.integers(len(played), size=STATES * 2 // 5)]
    uniform = rng.uniform(low, high, (STATES * 2 // 5, len(low)))
    count = STATES - len(on_policy) - len(uniform)
    inside = rng.uniform(low, high, (count, len(low)))
    bound = np.where(rng.random(inside.shape) < 0.5, low, high)
    at_bound = rng.random(inside.shape) < 0.5
    at_bound[np.arange(count), rng.integers(len(low), size=count)] = (
        True  # at least one value of each
    )
    # Rounding to 32 bits may step over a bound by one unit in the last place.
    return np.clip(
        np.concatenate([on_policy, uniform, np.where(at_bound, bound, inside)]).astype(np.float32),
        low,
        high,
    )


def compare(runtimes: dict[str, QFunction], states: NDArray[np.float32]) -> Parity:
    """Check that every runtime gives the same Q-values and actions on `states`, (n, 4), at once and in small batches.

    The same: |ΔQ| ≤ 1e-5 + 1e-5 · |Q| in every pair, and equal actions wherever the two best Q-values differ by more than twice that.
    Raises `ExportError`.
    """
    answers = {name: run(states) for name, run in runtimes.items()}
    for name, run in runtimes.items():
        for size in BATCHES:
            part = run(states[:size])
            if part.shape != answers[name][:size].shape:
                raise ExportError(
                    f"{name}: a batch of {size} states gives Q-values of shape {part.shape}"
                )
            _largest_difference(f"{name} (batch of {size})", part, name, answers[name][:size])
    names = list(answers)
    pairs = [(one, other) for index, one in enumerate(names) for other in names[index + 1 :]]
    largest = {
        f"{one} - {other}": _largest_difference(one, answers[one], other, answers[other])
        for one, other in pairs
    }

    reference = answers[names[0]]
    ordered = np.sort(reference, axis=1)
    near_tie = ordered[:, -1] - ordered[:, -2] <= 2 * _tolerance(reference).max(axis=1)
    for one, other in pairs:
        differs = (answers[one].argmax(axis=1) != answers[other].argmax(axis=1)) & ~near_tie
        if differs.any():
            raise ExportError(
                f"{one} and {other} choose different actions in state {states[differs][0].tolist()}"
            )
    return Parity(
        states=len(states),
        absolute_tolerance=ABSOLUTE_TOLERANCE,
        relative_tolerance=RELATIVE_TOLERANCE,
        largest_difference=largest,
        near_ties=int(near_tie.sum()),
    )


def golden_states(q_function: QFunction, states: NDArray[np.float32]) -> tuple[GoldenState, ...]:
    """Return `GOLDEN_STATES` of `states`, evenly picked, with their Q-values: a self-test for any backend, anywhere."""
    chosen = states[np.linspace(0, len(states) - 1, GOLDEN_STATES).astype(np.int64)]
    q_values = q_function(chosen)
    return tuple(
        GoldenState(state=tuple(state), q_values=tuple(values))
        for state, values in zip(chosen.tolist(), q_values.tolist(), strict=True)
    )


def _tolerance(q_values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.float32(ABSOLUTE_TOLERANCE) + np.float32(RELATIVE_TOLERANCE) * np.abs(q_values)


def _largest_difference(
    one: str, q_one: NDArray[np.float32], other: str, q_other: NDArray[np.float32]
) -> float:
    difference = np.abs(q_one - q_other)
    # Not "above the tolerance": a NaN is above nothing, and must not pass.
    if not (difference <= _tolerance(q_one)).all():
        raise ExportError(
            f"{one} and {other} differ by up to {difference.max():.3g} in Q; allowed is 1e-5 + 1e-5 · |Q|"
        )
    return float(difference.max())
