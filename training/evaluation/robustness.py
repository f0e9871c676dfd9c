"""The exam: a controller in, the share of runs that it survives in each column out. Knows nothing of learning.

Every controller meets the same runs: conditions, first states, noise and pushes come from the seed and never from what was decided.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from training.envs.cartpole import CartPoles, Conditions

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

Controller = Callable[[Float32Array], Int64Array]  # states (n, 4) → actions (n,)

PUSH_INTERVAL = 50  # steps


@dataclass(frozen=True)
class Column:
    """One column of the scorecard: what its runs are under. A list of ranges means one of them, each as likely, for each run."""

    name: str
    steps: int = 500  # a run is survived if nothing fell in so many
    runs: int = 400
    force: tuple[tuple[float, float], ...] = ((10.0, 10.0),)  # N, uniform
    half_length: tuple[tuple[float, float], ...] = ((0.5, 0.5),)  # m, uniform
    pole_mass: tuple[tuple[float, float], ...] = ((0.1, 0.1),)  # kg, uniform
    noise: float = 0.0  # standard deviation on each value as seen
    delay: int = 0  # steps
    start: float = 0.05  # half width of the first state's range
    push: float = 0.0  # m/s, every 50 steps a uniform draw in ± this

    def draw(self, rng: np.random.Generator, runs: int) -> Conditions:
        """Conditions of the runs."""

        def uniform(ranges: tuple[tuple[float, float], ...]) -> Float64Array:
            low, high = np.array(ranges)[rng.integers(0, len(ranges), runs)].T
            drawn: Float64Array = rng.uniform(low, high)
            return drawn

        force, half_length, pole_mass = (
            uniform(self.force),
            uniform(self.half_length),
            uniform(self.pole_mass),
        )
        start, noise, push = (
            np.full((runs, 4), self.start),
            np.full(runs, self.noise),
            np.full(runs, self.push),
        )
        return Conditions(
            force, half_length, pole_mass, start, noise, np.full(runs, self.delay, np.int64), push
        )


SCORECARD: tuple[Column, ...] = (
    Column("nominal"),
    Column("10,000 steps", steps=10_000, runs=100),
    Column("moderate", force=((5.0, 15.0),), half_length=((0.25, 0.75),), pole_mass=((0.05, 0.5),)),
    Column(
        "extreme",
        force=((1.0, 5.0), (15.0, 20.0)),
        half_length=((0.05, 0.25), (0.75, 1.0)),
        pole_mass=((0.01, 0.05), (0.5, 1.0)),
    ),
    Column("noise 0.01", noise=0.01),
    Column("noise 0.05", noise=0.05),
    Column("noise 0.1", noise=0.1),
    Column("delay 1", delay=1),
    Column("delay 2", delay=2),
    Column("delay 3", delay=3),
    Column("start ±0.2", start=0.2),
    Column("push 0.5", push=0.5),
    Column("push 1", push=1.0),
)


def examine(
    controller: Controller,
    seed: int,
    columns: tuple[Column, ...] = SCORECARD,
    *,
    runs: int | None = None,
    copies: int = 1,
) -> Float64Array:
    """Shares of runs survived (copies, columns).

    `runs` replaces each column's own number. With `copies` = K the controller is K agents: it gets states (K · n, 4), agent by
    agent, and each agent meets the same n runs.
    """
    shares = np.zeros((copies, len(columns)))
    for steps in sorted({column.steps for column in columns}):
        numbers = [number for number, column in enumerate(columns) if column.steps == steps]
        survived = _runs(
            controller, seed, [(number, columns[number]) for number in numbers], steps, runs, copies
        )
        for number, alive in zip(numbers, survived, strict=True):
            shares[:, number] = alive.mean(axis=1)
    return shares


def _runs(
    controller: Controller,
    seed: int,
    columns: list[tuple[int, Column]],
    steps: int,
    runs: int | None,
    copies: int,
) -> list[BoolArray]:
    """Which runs were survived, (copies, runs) a column. All columns of one length are one vector environment."""
    counts = [runs or column.runs for _, column in columns]
    slices = [
        slice(end - count, end) for count, end in zip(counts, accumulate(counts), strict=True)
    ]
    total = sum(counts)
    streams = [np.random.default_rng((seed, number)) for number, _ in columns]

    drawn = CartPoles(total)
    for (_, column), rng, rows, count in zip(columns, streams, slices, counts, strict=True):
        drawn.begin(np.arange(rows.start, rows.stop), column.draw(rng, count), rng)
    carts = CartPoles(copies * total, max_episode_steps=steps)
    carts.conditions = Conditions.join([drawn.conditions] * copies)
    carts.state, carts.delayed = np.tile(drawn.state, copies), np.tile(drawn.delayed, copies)
    carts.apply_conditions()

    own = [
        (column, rng, rows) for (_, column), rng, rows in zip(columns, streams, slices, strict=True)
    ]
    noisy = [(rng, rows, column.noise) for column, rng, rows in own if column.noise]
    pushed = [(rng, rows, column.push) for column, rng, rows in own if column.push]
    noise, jumps = np.zeros((total, 4)), np.zeros(total)
    alive = np.ones(copies * total, np.bool_)
    for step in range(steps):
        if step and step % PUSH_INTERVAL == 0:
            for rng, rows, size in pushed:
                jumps[rows] = rng.uniform(-size, size, rows.stop - rows.start)
            carts.push(np.tile(jumps, copies))
        for rng, rows, deviation in noisy:
            noise[rows] = rng.standard_normal((rows.stop - rows.start, 4)) * deviation
        seen = (
            (carts.state.T.reshape(copies, total, 4) + noise).astype(np.float32)
            if noisy
            else carts.state.T.astype(np.float32)
        )
        terminated, _ = carts.move(controller(seen.reshape(-1, 4)))
        alive &= ~terminated
        carts.state[:, ~alive] = 0.0  # a fallen pole stays fallen; its numbers must not overflow
        if not alive.any():
            break
    return [alive.reshape(copies, total)[:, rows] for rows in slices]
