"""Recovery: of the starts that some sequence of actions saves, the share that a policy saves.

`recovery.npz` holds such starts of the nominal plant, with the plan that saves each.
`python -m benchmarks.training.recovery` writes it anew.
"""

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.manifest import RecoveryMap
from training.envs.cartpole import VectorCartPole
from training.evaluation.recoverable import (
    HALF_WIDTHS,
    STEPS,
    Plant,
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

    starts: Float64Array  # (n, 4), the first of those that can be saved
    plans: Int64Array  # (n, 4), as `recoverable.Verdicts` has them
    drawn: int  # starts, uniformly from the box
    saved: int  # of those, found to be saved by a plan
    lost: int  # of those, proven to be lost


def starts_for(seed: int) -> RecoveryStarts:
    """Return the nominal plant's starts for evaluation; for validation where the seed is no such.

    So no policy is selected by the starts that it is evaluated on.
    """
    return _read("evaluation" if seed in EVALUATION_SEEDS else "validation")


def draw_map(controller: Controller) -> RecoveryMap:
    """Return the map of the starts that a controller saves."""
    verdicts, starts = _read_map(), map_starts()
    tried = verdicts != LOST
    saved = np.zeros(len(starts), np.bool_)
    saved[tried] = saves(controller, starts[tried])

    letters = np.array([".", "?", "-"])[verdicts]
    letters[saved] = "+"
    return RecoveryMap(
        state=("cart_position", "cart_velocity"),
        half_widths=HALF_WIDTHS[:2],
        rows=tuple("".join(row) for row in letters.reshape(MAP_SIZE, MAP_SIZE)),
    )


def saves(controller: Controller, starts: Float64Array) -> BoolArray:
    """Return from which of the starts, (n, 4), the controller keeps Gymnasium's plant up."""
    environment = VectorCartPole(len(starts), max_episode_steps=STEPS)
    environment.state = np.ascontiguousarray(starts.T)
    running = np.ones(environment.num_envs, np.bool_)
    for _ in range(STEPS):
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
def _read_map() -> Int64Array:
    with np.load(FILE) as arrays:
        verdicts: Int64Array = arrays["map"].astype(np.int64)
    return verdicts
