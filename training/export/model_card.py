"""Reports for people: the history as CSV, the pictures, the model card. Knows nothing of how they are stored."""

import csv
import io
from typing import TYPE_CHECKING

import numpy as np

from models.manifest import Manifest, RobustnessEvaluation
from training.evaluation.episodes import QFunction

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# matplotlib takes most of a second to import, and only the pictures need it.

BLUE, GREY, RED = "#2c6fa6", "#9db4c8", "#c0392b"
MEAN_OVER = 100  # rows of the history in the running mean


def scores_csv(history: list[dict[str, float]]) -> bytes:
    """Return the history of training, a line a row."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if history:
        writer.writerow(history[0])
    writer.writerows([f"{value:.6g}" for value in row.values()] for row in history)
    return text.getvalue().encode()


def scores_plot(history: list[dict[str, float]], title: str) -> bytes:
    """Return the score over the course of training as a PNG: of each episode and its running mean, or of the best and the median agent."""
    counted = next(iter(history[0]))
    x = np.array([row[counted] for row in history])
    figure = _figure(9, 4.5)
    axes = figure.subplots()
    if "score" in history[0]:
        scores = np.array([row["score"] for row in history])
        total = np.concatenate([[0.0], scores.cumsum()])
        first = np.maximum(np.arange(1, len(scores) + 1) - MEAN_OVER, 0)
        axes.plot(x, scores, ".", markersize=2.5, color=GREY, label="score of an episode")
        axes.plot(
            x,
            (total[1:] - total[first]) / (np.arange(1, len(scores) + 1) - first),
            color=RED,
            linewidth=2,
            label=f"mean of the last {MEAN_OVER}",
        )
        axes.set_ylabel("score (sum of the rewards learned from)")
    else:
        axes.plot(
            x, [row["best_score"] for row in history], color=RED, linewidth=2, label="best agent"
        )
        axes.plot(x, [row["median_score"] for row in history], color=BLUE, label="median agent")
        axes.set_ylabel("greedy score on validation seeds (1: perfect)")
    axes.set(title=title, xlabel=counted.replace("_", " "))
    axes.grid(alpha=0.25)
    axes.legend(loc="upper left")
    return _png(figure)


def robustness_chart(robustness: RobustnessEvaluation, title: str) -> bytes:
    """Return a PNG with a pair of bars a scenario, the policy beside the LQR."""
    figure = _figure(9, 4)
    axes = figure.subplots()
    places = np.arange(len(robustness.scenarios))
    axes.bar(
        places - 0.2,
        [scenario.success_rate for scenario in robustness.scenarios],
        0.38,
        color=BLUE,
        label="this policy",
    )
    axes.bar(
        places + 0.2,
        [scenario.lqr_success_rate for scenario in robustness.scenarios],
        0.38,
        color=GREY,
        label="LQR",
    )
    axes.set_xticks(
        places, [scenario.name for scenario in robustness.scenarios], rotation=35, ha="right"
    )
    axes.set(ylabel="success rate", ylim=(0, 1.05))
    axes.set_title(title, loc="left")
    axes.grid(alpha=0.25, axis="y")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False)
    return _png(figure)


def decision_surface(q_values: QFunction, title: str) -> bytes:
    """Return Q(right) - Q(left) over pole angle and angular velocity as a PNG, the cart at rest in the middle; the line is zero."""
    angles, spins = np.linspace(-0.21, 0.21, 121), np.linspace(-2.5, 2.5, 121)
    grid = np.zeros((len(spins), len(angles), 4), np.float32)
    grid[..., 2], grid[..., 3] = np.meshgrid(angles, spins)
    q = q_values(grid.reshape(-1, 4)).reshape(*grid.shape[:2], -1)
    gap = q[..., 1] - q[..., 0]
    figure = _figure(6, 4.5)
    axes = figure.subplots()
    largest = float(np.abs(gap).max())
    shown = axes.pcolormesh(
        np.degrees(angles),
        spins,
        gap,
        cmap="RdBu",
        vmin=-largest,
        vmax=largest,
        shading="auto",
        rasterized=True,
    )
    axes.contour(np.degrees(angles), spins, gap, levels=[0], colors="black", linewidths=1)
    axes.set(title=title, xlabel="pole angle (°)", ylabel="pole angular velocity (rad/s)")
    figure.colorbar(shown, label="Q(right) - Q(left)")
    return _png(figure)


def model_card(manifest: Manifest) -> bytes:
    """Return the bundle's README, made from its manifest alone."""
    made, judged = manifest.provenance, manifest.evaluation
    state_rows = "\n".join(
        f"| `{value.name}` | {value.unit} | {_bound(value.low)} … {_bound(value.high)} | {value.training_min:.4g} … {value.training_max:.4g} |"
        for value in manifest.state
    )
    scenario_rows = "\n".join(
        f"| {scenario.name} | {scenario.episodes} × {scenario.steps:,}"
        f" | {scenario.success_rate:.4g} | {scenario.lqr_success_rate:.4g} |"
        for scenario in manifest.robustness.scenarios
    )
    parity_rows = "\n".join(
        f"| {pair} | {difference:.2g} |"
        for pair, difference in manifest.parity.largest_difference.items()
    )
    files = "\n".join(
        f"| `{artifact.file}` | {kind} | {artifact.size} | `{artifact.sha256}` |"
        for kind, artifact in manifest.artifacts.items()
    )
    settings = "\n".join(
        f"| `{name}` | {value} |" for name, value in made.hyperparameters.items() if name != "name"
    )
    layers = " → ".join(
        str(width)
        for width in (manifest.network.inputs, *manifest.network.hidden, manifest.network.outputs)
    )
    versions = ", ".join(f"{name} {version}" for name, version in made.versions.items())
    gate = "passed" if manifest.gate.passed else "FAILED: " + "; ".join(manifest.gate.failures)
    pictures = {name: text for name, text in _PICTURES.items() if name in manifest.extra_files}
    film, robustness, surface, scores = (
        f"\n![{pictures[name]}]({name})\n" if name in pictures else "" for name in _PICTURES
    )
    return f"""# {manifest.name}, version {manifest.version}

A policy that keeps the pole of `{manifest.environment.id}` up: a fully connected network, {layers} with ReLU, that maps a state to one
Q-value per action. The greedy action is the first with the highest Q-value. This page is generated from `manifest.json`.
{film}
## How good it is
{judged.episodes:,} greedy episodes of the exported ONNX file, on starts that training never saw (seed {judged.seed}):
mean {judged.mean:.2f} steps, worst {judged.minimum}, {judged.success_rate:.1%} lasted all {manifest.environment.max_episode_steps} steps.

The robustness evaluation (seed {manifest.robustness.seed}) goes beyond the nominal plant. Each number is a success rate, the share of
episodes in which the pole stayed up, beside that of a linear-quadratic regulator (LQR) in the same episodes:

| scenario | episodes × steps | this policy | LQR |
| --- | --- | --- | --- |
{scenario_rows}
{robustness}
Gate `{manifest.gate.name}`: {gate}. `python -m training evaluate FOLDER` measures all of it again.
{surface}
## How it was made
Recipe `{made.recipe}`, seed {made.seed}, on {made.device}: {made.steps:,} environment steps over all agents, {made.seconds:.1f} s;
training stopped because: {made.stopped}. {manifest.created:%Y-%m-%d}, commit {made.commit or "unknown"}.
{versions}.
{scores}
| hyperparameter | value |
| --- | --- |
{settings}

## What goes in and what comes out
| state value | unit | bounds of the environment | seen in training |
| --- | --- | --- | --- |
{state_rows}

Actions: {", ".join(f"{index} = {name}" for index, name in enumerate(manifest.actions))}. One step is {manifest.environment.step_seconds} s.

## The files
| file | format | bytes | SHA-256 |
| --- | --- | --- | --- |
{files}

On {manifest.parity.states:,} states (on-policy, uniform inside the bounds, at the bounds) the runtimes differ at most by:

| pair | largest difference in Q |
| --- | --- |
{parity_rows}

{manifest.parity.near_ties} of these states are near ties, where runtimes may choose differently.

## How to use it
Serve it with `python -m service --bundle FOLDER`, or run the file yourself:

```python
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("policy.onnx", providers=["CPUExecutionProvider"])
q_values = session.run(["q_values"], {{"state": np.array([[0, 0, 0.05, 0]], np.float32)}})[0]
action = int(q_values.argmax(axis=1)[0])  # {", ".join(f"{index} {name}" for index, name in enumerate(manifest.actions))}
```

## Limits
- It was trained and judged in simulation. What it survives there is in the table above; nothing is promised for another plant.
- Outside the range seen in training it still answers, but nobody checked those answers; the service names such values in `out_of_range`.
- A Q-value is a discounted sum of rewards as the policy estimates it, not a probability, and not comparable between bundles.
""".encode()


_PICTURES = {
    "policy.gif": "The policy balances a pole that is pushed",
    "robustness.png": "Success rate in each scenario of the robustness evaluation, beside an LQR",
    "surface.png": "Q(right) - Q(left) over pole angle and angular velocity",
    "scores.png": "Score over the course of training",
}


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=110, layout="constrained")


def _png(figure: "Figure") -> bytes:
    image = io.BytesIO()
    figure.savefig(
        image, format="png", metadata={"Software": None}
    )  # so that the same picture has the same bytes
    return image.getvalue()


def _bound(value: float | None) -> str:
    return "unbounded" if value is None else f"{value:.4g}"
