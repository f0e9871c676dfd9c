"""The pictures of a sweep, as PNG."""

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from training.export.plots import BLUE, GREY, RED, figure_of, png_of
from training.sweep import results
from training.sweep.plan import Sweep
from training.sweep.results import Row
from training.sweep.search import SEARCHED
from training.types import Float64Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN_VARIATIONS = 30
SHOWN_TRIALS = 2_000  # points and lines above this only make a picture slow
SHOWN_SCENARIOS = 4  # those in which trials differ most


def draw(sweep: Sweep, rows: Sequence[Row]) -> dict[str, bytes]:
    """Return the pictures that a sweep's rows give, by the name of the file."""
    done = [row for row in rows if row["status"] == results.DONE]
    files = {}
    if done:
        files["success_by_seed.png"] = success_by_seed(done[:SHOWN_TRIALS])
    if sweep.kind == "search" and (picture := parallel_coordinates(rows[:SHOWN_TRIALS])):
        files["parallel_coordinates.png"] = picture
    if picture := scenario_against_scenario(done[:SHOWN_TRIALS]):
        files["scenarios.png"] = picture
    return files


def success_by_seed(rows: Sequence[Row]) -> bytes:
    """Return each trial's mean success rate over the scenarios, a line of points a variation."""
    names = list(dict.fromkeys(str(row["variation"]) for row in rows))[:SHOWN_VARIATIONS]
    figure = figure_of(9, 2 + 0.35 * len(names))
    axes = figure.subplots()
    for position, name in enumerate(names):
        group = [row for row in rows if row["variation"] == name]
        values = _numbers(group, "mean_rate")
        spread = np.linspace(-0.25, 0.25, len(group)) if len(group) > 1 else np.zeros(1)
        passed = np.array([bool(row["passed"]) for row in group])
        for mask, colour in ((passed, BLUE), (~passed, RED)):
            axes.scatter(values[mask], position + spread[mask], s=14, color=colour, alpha=0.7)
    axes.set_yticks(range(len(names)), [name or "recipe" for name in names])
    axes.invert_yaxis()
    axes.set(
        title="each trial, seed by seed from top to bottom (red: gate not passed)",
        xlabel="success rate, mean over the scenarios",
    )
    axes.grid(alpha=0.25, axis="x")
    return png_of(figure)


def parallel_coordinates(rows: Sequence[Row]) -> bytes | None:
    """Return a line for each trial of a search through the hyperparameters in which they differ.

    The better it is, the brighter. None where they differ in none.
    """
    scored = [
        row
        for row in rows
        if row["variation"] == SEARCHED and results.number(row, "validation_score") is not None
    ]
    columns = _differing(scored)
    if not columns:
        return None

    from matplotlib import colormaps

    names = [*columns, "validation_score"]
    if any(results.number(row, "steps") is not None for row in scored):
        names.insert(-1, "steps")  # those that were ended early have none
    values = [_numbers(scored, name) for name in names]
    heights = np.array([_scaled(each) for each in values])
    # By the score, and among equals by the steps: the last is the best.
    order = np.lexsort((-np.nan_to_num(values[-2], nan=np.inf), values[-1]))
    colours = colormaps["viridis"](np.linspace(0, 1, len(order)))
    figure = figure_of(max(6, 1.8 * len(names)), 4.5)
    axes = figure.subplots()
    for number, colour in zip(order, colours, strict=True):
        axes.plot(heights[:, number], color=colour, alpha=0.7, linewidth=1.2, marker=".")
    for position, each in enumerate(values):
        axes.axvline(position, color=GREY, linewidth=0.8)
        _label_ends(axes, position, each)
    axes.set_xticks(range(len(names)), [_short(name) for name in names])
    axes.set_yticks([])
    axes.set(title="trials of the search, the best brightest", ylim=(-0.12, 1.12))
    return png_of(figure)


def scenario_against_scenario(rows: Sequence[Row]) -> bytes | None:
    """Return the trials' success rates in those scenarios in which they differ, in pairs.

    None where they differ in fewer than two.
    """
    columns = dict.fromkeys(name for row in rows for name in row if name.startswith(results.RATE))
    spreads = {name: float(np.nanstd(_numbers(rows, name))) for name in columns}
    chosen = [name for name in sorted(spreads, key=lambda n: -spreads[n]) if spreads[name] > 0]
    pairs = list(combinations(chosen[:SHOWN_SCENARIOS], 2))
    if not pairs:
        return None

    width = min(3, len(pairs))
    figure = figure_of(3.2 * width, 3.2 * -(-len(pairs) // width))
    grid = figure.subplots(-(-len(pairs) // width), width, squeeze=False)
    for axes in grid.flat[len(pairs) :]:
        axes.axis("off")
    passed = np.array([bool(row["passed"]) for row in rows])
    for axes, (one, other) in zip(grid.flat, pairs, strict=False):
        for mask, colour in ((passed, BLUE), (~passed, RED)):
            axes.scatter(
                _numbers(rows, one)[mask],
                _numbers(rows, other)[mask],
                s=12,
                color=colour,
                alpha=0.6,
            )
        axes.set(xlabel=one.removeprefix(results.RATE), ylabel=other.removeprefix(results.RATE))
        axes.grid(alpha=0.25)
    figure.suptitle("success rates, scenario against scenario (red: gate not passed)")
    return png_of(figure)


def _differing(rows: Sequence[Row]) -> list[str]:
    """Return the hyperparameters, numbers, in which rows differ."""
    columns = dict.fromkeys(name for row in rows for name in row)
    return [
        name
        for name in columns
        if name.startswith(results.HYPERPARAMETER)
        and len({value for row in rows if (value := results.number(row, name)) is not None}) > 1
    ]


def _numbers(rows: Sequence[Row], name: str) -> Float64Array:
    """Return a column, (n,), with NaN in the place of what is no number."""
    values = [results.number(row, name) for row in rows]
    return np.array([np.nan if value is None else value for value in values], np.float64)


def _scaled(values: Float64Array) -> Float64Array:
    """Return values between 0 and 1; by their logarithms where they span a factor of 10."""
    if np.nanmin(values) > 0 and np.nanmax(values) / np.nanmin(values) >= 10:
        values = np.log(values)
    low, high = np.nanmin(values), np.nanmax(values)
    scaled: Float64Array = (
        (values - low) / (high - low) if high > low else np.full(len(values), 0.5)
    )
    return scaled


def _label_ends(axes: "Axes", position: int, values: Float64Array) -> None:
    for height, value in ((-0.03, np.nanmin(values)), (1.03, np.nanmax(values))):
        side = "top" if height < 0 else "bottom"
        axes.text(position, height, f"{value:.3g}", ha="center", va=side, fontsize=8)


def _short(column: str) -> str:
    return column.removeprefix(results.HYPERPARAMETER).replace("_", " ")
