"""Recovery: of the starts that some sequence of actions saves, the share that a policy saves.

`recovery.npz` holds such starts of the standard plant, with the plan that saves each.
`python -m benchmarks.training.recovery` writes it anew. Those of another plant are searched for
when they are first needed, which takes seconds, and kept in memory.
"""

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.manifest import Plant, RecoveryMap
from training.envs.cartpole import VectorCartPole
from training.envs.plant import STANDARD, steps_of
from training.evaluation.recoverable import (
    HALF_WIDTHS,
    STEPS,
    draw_starts,
    judge,
    planned_actions,
)
from training.seeding import EVALUATION_SEEDS, VALIDATION_SEEDS
from training.types import BoolArray, Controller, Float64Array, Int64Array

FILE = Path(__file__).with_name("recovery.npz")
DRAWN = 5_000  # starts from the box, for each purpose
STARTS = 2_000  # of those that can be saved, kept for each purpose
SEEDS = {"evaluation": EVALUATION_SEEDS.start, "validation": VALIDATION_SEEDS.start}

MAP_SIZE = 31  # rows and columns of the map: cart position by cart velocity, pole upright, at rest
LOST, OPEN, RECOVERABLE = 0, 1, 2  # verdicts of the map


@dataclass(frozen=True)
class RecoveryStarts:
    """Starts that can be saved, and what they were found among."""

    starts: Float64Array  # (n, 4), the first of those that can be saved, at most `STARTS`
    plans: Int64Array  # (n, 4), as `recoverable.Verdicts` has them
    drawn: int  # starts, uniformly from the box
    saved: int  # of those, found to be saved by a plan
    lost: int  # of those, proven to be lost


class UncontrollableError(ValueError):
    """Raised for a plant of which the search saves no start at all."""


def starts_for(seed: int, plant: Plant = STANDARD) -> RecoveryStarts:
    """Return a plant's starts for evaluation; for validation where the seed is no such.

    So no policy is selected by the starts that it is evaluated on. Raises `UncontrollableError`.
    """
    purpose = "evaluation" if seed in EVALUATION_SEEDS else "validation"
    return _read(purpose) if plant == STANDARD else _search(plant, purpose)


def prepare(plant: Plant) -> RecoveryStarts:
    """Search for all that an evaluation will ask for, where no file holds it.

    Returns the starts for evaluation. Raises `UncontrollableError`.
    """
    starts = starts_for(SEEDS["evaluation"], plant)
    _verdicts_of_map(plant)
    return starts


def draw_map(controller: Controller, plant: Plant = STANDARD) -> RecoveryMap:
    """Return the map of the starts that a controller saves."""
    verdicts, starts = _verdicts_of_map(plant), map_starts()
    tried = verdicts != LOST
    saved = np.zeros(len(starts), np.bool_)
    saved[tried] = saves(controller, starts[tried], plant)

    letters = np.array([".", "?", "-"])[verdicts]
    letters[saved] = "+"
    return RecoveryMap(
        state=("cart_position", "cart_velocity"),
        half_widths=HALF_WIDTHS[:2],
        rows=tuple("".join(row) for row in letters.reshape(MAP_SIZE, MAP_SIZE)),
    )


def saves(controller: Controller, starts: Float64Array, plant: Plant = STANDARD) -> BoolArray:
    """Return from which of the starts, (n, 4), the controller keeps Gymnasium's plant up."""
    steps = steps_of(plant, STEPS)
    environment = VectorCartPole(len(starts), steps, plant)
    environment.state = np.ascontiguousarray(starts.T)
    running = np.ones(environment.num_envs, np.bool_)
    for _ in range(steps):
        terminated, _ = environment.advance(controller(environment.state.T.astype(np.float32)))
        running &= ~terminated
        environment.state[:, ~running] = 0.0
    return running


def replay(plant: Plant, found: RecoveryStarts) -> Controller:
    """Return a controller that plays the plans' actions, whatever the states are."""
    actions = iter(planned_actions(plant, found.starts, found.plans))
    return lambda _: next(actions)


def find_starts(plant: Plant, seed: int) -> RecoveryStarts:
    """Draw starts, and look for those that can be saved."""
    # 32 bits a value, as the file holds them.
    starts = draw_starts(np.random.default_rng(seed), DRAWN).astype(np.float32).astype(np.float64)
    verdicts = judge(plant, starts)
    rows = np.flatnonzero(verdicts.saved)
    kept = rows[:STARTS]
    lost = int(np.count_nonzero(verdicts.lost))
    return RecoveryStarts(starts[kept], verdicts.plans[kept], DRAWN, len(rows), lost)


def judge_map(plant: Plant) -> Int64Array:
    """Return what is known of the starts of the map, (961,)."""
    verdicts = judge(plant, map_starts())
    return np.select([verdicts.lost, verdicts.saved], [LOST, RECOVERABLE], OPEN)


def map_starts() -> Float64Array:
    """Return the starts of the map, (961, 4): a row a velocity, from the highest down."""
    position, velocity = HALF_WIDTHS[:2]
    velocities, positions = np.meshgrid(
        np.linspace(velocity, -velocity, MAP_SIZE),
        np.linspace(-position, position, MAP_SIZE),
        indexing="ij",
    )
    starts = np.zeros((MAP_SIZE**2, 4))
    starts[:, 0], starts[:, 1] = positions.ravel(), velocities.ravel()
    return starts


@functools.cache
def _read(purpose: str) -> RecoveryStarts:
    with np.load(FILE) as arrays:
        drawn, saved, lost = arrays[f"{purpose}_counts"].tolist()
        return RecoveryStarts(
            arrays[f"{purpose}_starts"].astype(np.float64),
            arrays[f"{purpose}_plans"].astype(np.int64),
            drawn,
            saved,
            lost,
        )


@functools.cache
def _search(plant: Plant, purpose: str) -> RecoveryStarts:
    found = find_starts(plant, SEEDS[purpose])
    if not found.saved:
        raise UncontrollableError(
            f"of {found.drawn:,} starts none can be kept up on this plant by any of the controllers"
            " that were tried: its motor is too weak, or its step too long"
        )
    return found


@functools.cache
def _verdicts_of_map(plant: Plant) -> Int64Array:
    if plant != STANDARD:
        return judge_map(plant)
    with np.load(FILE) as arrays:
        verdicts: Int64Array = arrays["map"].astype(np.int64)
    return verdicts
