"""Reports for people: the score plot, the scores as CSV, the model card. Knows nothing of how they are stored."""

import csv
import io

import numpy as np

from models.bundle import Manifest
from training.train import SCORE_WINDOW, Episode


def scores_csv(episodes: list[Episode]) -> bytes:
    """Return the history of training, a line an episode."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["episode", "score", "steps", "epsilon"])
    writer.writerows((episode.number, f"{episode.score:g}", episode.steps, f"{episode.epsilon:.6g}") for episode in episodes)
    return text.getvalue().encode()


def scores_plot(episodes: list[Episode], title: str) -> bytes:
    """Return the score over the episodes and its running mean as a PNG."""
    from matplotlib.figure import Figure  # takes a second to import, and only a report needs it

    numbers = np.array([episode.number for episode in episodes])
    scores = np.array([episode.score for episode in episodes])
    total = np.concatenate([[0.0], scores.cumsum()])
    first = np.maximum(np.arange(1, len(scores) + 1) - SCORE_WINDOW, 0)
    means = (total[1:] - total[first]) / (np.arange(1, len(scores) + 1) - first)
    figure = Figure(figsize=(9, 4.5), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.plot(numbers, scores, ".", markersize=2.5, color="#9db4c8", label="score of an episode")
    axes.plot(numbers, means, color="#c0392b", linewidth=2, label=f"mean of the last {SCORE_WINDOW}")
    axes.set(title=title, xlabel="episode", ylabel="score (reward learned from)")
    axes.grid(alpha=0.25)
    axes.legend(loc="upper left")
    image = io.BytesIO()
    figure.savefig(image, format="png", metadata={"Software": None})  # so that the same plot has the same bytes
    return image.getvalue()


def model_card(manifest: Manifest) -> bytes:
    """Return the bundle's README, made from its manifest alone."""
    made, judged = manifest.provenance, manifest.evaluation
    state_rows = "\n".join(
        f"| `{value.name}` | {value.unit} | {_bound(value.low)} … {_bound(value.high)} | {value.seen_min:.4g} … {value.seen_max:.4g} |"
        for value in manifest.state
    )
    parity_rows = "\n".join(f"| {pair} | {difference:.2g} |" for pair, difference in manifest.parity.largest_difference.items())
    files = "\n".join(
        f"| `{artifact.file}` | {kind} | {artifact.size} | `{artifact.sha256}` |" for kind, artifact in manifest.artifacts.items()
    )
    settings = "\n".join(f"| `{name}` | {value} |" for name, value in made.hyperparameters.items() if name != "name")
    layers = " → ".join(str(width) for width in (manifest.network.inputs, *manifest.network.hidden, manifest.network.outputs))
    plot = "\n![Score over the episodes of training](scores.png)\n" if "scores.png" in manifest.companions else ""
    versions = ", ".join(f"{name} {version}" for name, version in made.versions.items())
    return f"""# {manifest.name}, version {manifest.version}

A policy that keeps the pole of `{manifest.environment.id}` up: a fully connected network, {layers} with ReLU, that maps a state to one
Q-value per action. The greedy action is the first with the highest Q-value. This page is generated from `manifest.json`.

## How good it is
{judged.episodes:,} greedy episodes of the exported ONNX file, on starts that training never saw (seed {judged.seed}):
mean {judged.mean:.2f} steps, worst {judged.minimum}, {judged.share_at_limit:.1%} lasted all {manifest.environment.max_episode_steps} steps.

`python -m training evaluate FOLDER` measures it again.

## How it was made
Recipe `{made.recipe}`, seed {made.seed}, on {made.device}: {made.episodes:,} episodes, {made.steps:,} environment steps,
{made.seconds:.1f} s; training stopped because: {made.stopped}. {manifest.created:%Y-%m-%d}, commit {made.commit or "unknown"}.
{versions}.
{plot}
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
- It was trained and judged in simulation, with that simulator's masses, lengths, force and step time.
  Nothing is promised for another plant.
- Outside the range seen in training it still answers, but nobody checked those answers; the service names such values in `out_of_range`.
- A Q-value is a discounted sum of rewards as the policy estimates it, not a probability, and not comparable between bundles.
""".encode()


def _bound(value: float | None) -> str:
    return "unbounded" if value is None else f"{value:.4g}"
