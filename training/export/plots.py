"""The plots of a bundle, as PNG, and the history of training as CSV."""

import csv
import io
import logging
from typing import TYPE_CHECKING

import numpy as np

from models.manifest import Recovery, RobustnessEvaluation
from training.trainer import History
from training.types import QFunction

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# matplotlib takes most of a second to import, and only the plots need it: `_figure` imports it.

BLUE, GREY, RED, PALE = "#2c6fa6", "#9db4c8", "#c0392b", "#e8edf1"
MAP_COLOURS = {  # by the letters of the manifest's map
    "+": (BLUE, "the policy saves it"),
    "-": (RED, "it can be saved, but the policy does not"),
    "?": (GREY, "nobody knows whether it can be saved"),
    ".": (PALE, "lost whatever is done"),
}
MEAN_WINDOW = 100  # episodes in the running mean


def scores_csv(history: History) -> bytes:
    """Return the history of training, a line a row."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if history:
        writer.writerow(history[0])
    writer.writerows([f"{value:.6g}" for value in row.values()] for row in history)
    return text.getvalue().encode()


def scores_plot(history: History, title: str) -> bytes:
    """Return the score over the course of training.

    That is the score of each episode and its running mean, or, of a population, the score of the
    best and of the median agent.
    """
    figure = figure_of(9, 4.5)
    axes = figure.subplots()
    counter = next(iter(history[0]))
    if "score" in history[0]:
        _plot_episodes(axes, history, counter)
    else:
        _plot_agents(axes, history, counter)

    axes.set(title=title, xlabel=counter.replace("_", " "))
    axes.grid(alpha=0.25)
    axes.legend(loc="upper left")
    return png_of(figure)


def _plot_episodes(axes: "Axes", history: History, counter: str) -> None:
    x = np.array([row[counter] for row in history])
    scores = np.array([row["score"] for row in history])

    total = np.concatenate([[0.0], scores.cumsum()])
    last = np.arange(1, len(scores) + 1)
    first = np.maximum(last - MEAN_WINDOW, 0)
    means = (total[last] - total[first]) / (last - first)

    axes.plot(x, scores, ".", markersize=2.5, color=GREY, label="score of an episode")
    axes.plot(x, means, color=RED, linewidth=2, label=f"mean of the last {MEAN_WINDOW}")
    axes.set_ylabel("score (sum of the rewards learned from)")


def _plot_agents(axes: "Axes", history: History, counter: str) -> None:
    x = np.array([row[counter] for row in history])
    best = [row["best_score"] for row in history]
    median = [row["median_score"] for row in history]
    axes.plot(x, best, color=RED, linewidth=2, label="best agent")
    axes.plot(x, median, color=BLUE, label="median agent")
    axes.set_ylabel("greedy score on validation seeds (1: perfect)")


def robustness_chart(robustness: RobustnessEvaluation, title: str) -> bytes:
    """Return a pair of bars for each scenario, the policy beside the LQR."""
    scenarios = robustness.scenarios
    figure = figure_of(11, 4)
    axes = figure.subplots()

    x = np.arange(len(scenarios))
    rates = [scenario.success_rate for scenario in scenarios]
    lqr_rates = [scenario.lqr_success_rate for scenario in scenarios]
    axes.bar(x - 0.2, rates, 0.38, color=BLUE, label="this policy")
    axes.bar(x + 0.2, lqr_rates, 0.38, color=GREY, label="LQR")

    axes.set_xticks(x, [scenario.name for scenario in scenarios], rotation=35, ha="right")
    axes.set(ylabel="success rate", ylim=(0, 1.05))
    axes.set_title(title, loc="left")
    axes.grid(alpha=0.25, axis="y")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False)
    return png_of(figure)


def recovery_map(recovery: Recovery, title: str) -> bytes:
    """Return the map of what the policy saves, a square a start."""
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    letters = list(MAP_COLOURS)
    image = [[letters.index(letter) for letter in row] for row in recovery.map.rows]
    colours = [colour for colour, _ in MAP_COLOURS.values()]
    width, height = recovery.map.half_widths

    figure = figure_of(6.5, 5)
    axes = figure.subplots()
    axes.imshow(
        image,
        cmap=ListedColormap(colours),
        vmin=-0.5,
        vmax=len(letters) - 0.5,
        extent=(-width, width, -height, height),
        aspect="auto",
        interpolation="nearest",
    )
    axes.set(xlabel="cart position (m)", ylabel="cart velocity (m/s)")
    axes.set_title(f"{title} (pole upright, at rest)", loc="left")
    axes.legend(
        handles=[
            Patch(facecolor=colour, edgecolor="grey", label=meaning)
            for colour, meaning in MAP_COLOURS.values()
        ],
        loc="upper center",
        bbox_to_anchor=(0.5, -0.14),
        ncols=2,
        frameon=False,
        fontsize=8,
    )
    return png_of(figure)


def decision_surface(q_values: QFunction, title: str) -> bytes:
    """Return Q(right) - Q(left) over pole angle and angular velocity; the black line is zero.

    The cart is at rest in the middle.
    """
    angles, velocities = np.linspace(-0.21, 0.21, 121), np.linspace(-2.5, 2.5, 121)
    grid = np.zeros((len(velocities), len(angles), 4), np.float32)
    grid[..., 2], grid[..., 3] = np.meshgrid(angles, velocities)
    q = q_values(grid.reshape(-1, 4)).reshape(*grid.shape[:2], -1)
    difference = q[..., 1] - q[..., 0]

    figure = figure_of(6, 4.5)
    axes = figure.subplots()
    largest = float(np.abs(difference).max())
    mesh = axes.pcolormesh(
        np.degrees(angles),
        velocities,
        difference,
        cmap="RdBu",
        vmin=-largest,
        vmax=largest,
        shading="auto",
        rasterized=True,
    )
    axes.contour(
        np.degrees(angles), velocities, difference, levels=[0], colors="black", linewidths=1
    )
    axes.set(title=title, xlabel="pole angle (°)", ylabel="pole angular velocity (rad/s)")
    figure.colorbar(mesh, label="Q(right) - Q(left)")
    return png_of(figure)


def figure_of(width: float, height: float) -> "Figure":
    """Return an empty picture of so many inches."""
    # It warns of a home that cannot be written, where it would keep what it knows of fonts.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=110, layout="constrained")


def png_of(figure: "Figure") -> bytes:
    """Return a picture as a PNG file."""
    image = io.BytesIO()
    # Without the name of the software, so that the same picture has the same bytes.
    figure.savefig(image, format="png", metadata={"Software": None})
    return image.getvalue()
