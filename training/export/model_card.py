"""The model card: the README of a bundle, made from its manifest alone."""

from collections.abc import Iterable

from models.manifest import Environment, Manifest, Plant, Recovery, RobustnessEvaluation
from training.evaluation.intervals import with_interval

OLDEST_ONNXRUNTIME = "1.15.0"  # `python -m benchmarks.training.oldest_onnxruntime` tries it
UNITS = {  # of the plant's constants
    "cart_mass": "kg",
    "pole_mass": "kg",
    "half_length": "m",
    "force": "N",
    "gravity": "m/s²",
    "step_seconds": "s",
    "friction": "N·s/m",
}
ORIGINS = {
    "onnx": "an ONNX file",
    "stable-baselines3": "an archive",
    "state-dict": "a state dict of torch",
}
PICTURES = {
    "policy.gif": "The policy balances a pole that is pushed",
    "robustness.png": "Success rate in each scenario, beside an LQR",
    "recovery.png": "Which starts the policy saves, over position and velocity of the cart",
    "surface.png": "Q(right) - Q(left) over pole angle and angular velocity",
    "scores.png": "Score over the course of training",
}


def model_card(manifest: Manifest) -> bytes:
    """Return the card as Markdown."""
    sections = (
        _introduction(manifest),
        _performance(manifest),
        _provenance(manifest),
        _interface(manifest),
        _files(manifest),
        _usage(manifest),
        _limits(manifest),
    )
    return "\n".join(sections).encode()


def worth_of_the_tutorial(manifest: Manifest) -> str:
    """Say what the gate `tutorial` promises of a policy."""
    rule = manifest.provenance.hyperparameters
    return (
        f"Training stopped by the tutorial's rule, a mean above {rule['stop_mean']} steps over its"
        f" last {rule['stop_window']} episodes, and that promises no more."
    )


def _introduction(manifest: Manifest) -> str:
    network = manifest.network
    widths = " → ".join(map(str, (network.inputs, *network.hidden, network.outputs)))
    worth = ""
    if manifest.gate.name == "tutorial" and manifest.gate.passed:
        evaluation = manifest.evaluation
        worth = (
            f"**{worth_of_the_tutorial(manifest)} {evaluation.success_rate:.1%} of"
            f" {evaluation.episodes:,} greedy episodes lasted to the time limit, the mean is"
            f" {evaluation.mean:.1f} steps.**\n\n"
        )
    return f"""# {manifest.name}, version {manifest.version}

{worth}A policy that keeps the pole of `{manifest.environment.id}` up: a fully connected network,
{widths} with ReLU, that maps a state to one Q-value per action. The greedy action is the first with
the highest Q-value. This page is generated from `manifest.json`.
{_plant(manifest.environment)}{_picture(manifest, "policy.gif")}"""


def _plant(environment: Environment) -> str:
    """Tell the plant, where it is not that of CartPole-v1."""
    standard, plant = Plant(), environment.plant
    if plant == standard:
        return ""
    rows = (
        (
            f"`{name}`",
            UNITS[name],
            f"{getattr(plant, name):g}",
            f"{getattr(standard, name):g}",
        )
        for name in Plant.model_fields
    )
    return f"""
**It is for another plant than `{environment.id}` has**: training, the LQR and all scenarios are of
this one. Ask it for an action each {plant.step_seconds:g} s.

{_table(("constant", "unit", "this plant", "`CartPole-v1`"), rows)}
"""


def _performance(manifest: Manifest) -> str:
    evaluation, robustness, gate = manifest.evaluation, manifest.robustness, manifest.gate
    scenarios = _table(
        ("scenario", "episodes × steps", "this policy [95 %]", "LQR [95 %]"),
        (
            (
                scenario.name,
                f"{scenario.episodes} × {scenario.steps:,}",
                with_interval(scenario.success_rate, scenario.episodes),
                with_interval(scenario.lqr_success_rate, scenario.episodes),
            )
            for scenario in robustness.scenarios
        ),
    )
    passed = "passed" if gate.passed else "FAILED: " + "; ".join(gate.failures)
    return f"""## How good it is
{evaluation.episodes:,} greedy episodes of the exported ONNX file, on starts that training never saw
(seed {evaluation.seed}): mean {evaluation.mean:.2f} steps, worst {evaluation.minimum},
{evaluation.success_rate:.1%} lasted all {manifest.environment.max_episode_steps} steps.

The robustness evaluation (seed {robustness.seed}) goes beyond the nominal plant. Each number is a
success rate, the share of episodes in which the pole stayed up, with Wilson's interval, beside that
of a linear-quadratic regulator (LQR) in the same episodes:

{scenarios}
{_told_alone(robustness)}{_picture(manifest, "robustness.png")}{_recovery(robustness.recovery)}
{_picture(manifest, "recovery.png")}
Gate `{gate.name}`: {passed}. `python -m training evaluate FOLDER` measures all of it again.
{_picture(manifest, "surface.png")}"""


def _told_alone(robustness: RobustnessEvaluation) -> str:
    """Name the scenarios that no gate asks for."""
    names = [f"`{each.name}`" for each in robustness.scenarios if not each.is_required]
    return f"\nNo gate asks for {' and '.join(names)}.\n" if names else ""


def _recovery(recovery: Recovery | None) -> str:
    """Say what the starts of the scenario `recovery` were found among."""
    if recovery is None:
        return ""
    box = ", ".join(f"±{width:.4g}" for width in recovery.half_widths)
    return f"""
`recovery` begins in starts that can be saved at all. Of {recovery.drawn:,} drawn uniformly from
{box}, a search without any policy saves {recovery.recoverable:.1%}, each
by a sequence of actions that was replayed; {recovery.lost:.1%} are proven to be lost whatever is
done, and nothing is known of the rest."""


def _provenance(manifest: Manifest) -> str:
    made = manifest.provenance
    versions = ", ".join(f"{name} {version}" for name, version in made.versions.items())
    if made.origin is not None:
        return f"""## How it was made
Another program has trained it: it was imported from `{made.origin.file}`
({made.origin.size:,} bytes, SHA-256 `{made.origin.sha256}`),
{ORIGINS[made.origin.kind]} written by {made.origin.library or "an unknown program"}.
How it was trained is not known here.
{manifest.created:%Y-%m-%d}, commit {made.commit or "unknown"}.
{versions}.
"""
    hyperparameters = _table(
        ("hyperparameter", "value"),
        (
            (f"`{name}`", str(value))
            for name, value in made.hyperparameters.items()
            if name != "name"
        ),
    )
    return f"""## How it was made
Recipe `{made.recipe}`, seed {made.seed}, on {made.device} ({made.processor}):
{made.steps:,} environment steps over all agents, {made.seconds:.1f} s; training stopped because:
{made.stopped}.
{manifest.created:%Y-%m-%d}, commit {made.commit or "unknown"}.
{versions}.
{_picture(manifest, "scores.png")}
{hyperparameters}
"""


def _interface(manifest: Manifest) -> str:
    states = _table(
        ("state value", "unit", "bounds of the environment", f"range in {_ranges_of(manifest)}"),
        (
            (
                f"`{value.name}`",
                value.unit,
                f"{_bound(value.low)} … {_bound(value.high)}",
                f"{value.training_min:.4g} … {value.training_max:.4g}",
            )
            for value in manifest.state
        ),
    )
    actions = ", ".join(f"{index} = {name}" for index, name in enumerate(manifest.actions))
    return f"""## State and actions
{states}

Actions: {actions}. One step is {manifest.environment.step_seconds} s.
"""


def _files(manifest: Manifest) -> str:
    parity = manifest.parity
    artifacts = _table(
        ("file", "format", "bytes", "SHA-256"),
        (
            (f"`{artifact.file}`", name, str(artifact.size), f"`{artifact.sha256}`")
            for name, artifact in manifest.artifacts.items()
        ),
    )
    errors = _table(
        ("runtime", "largest error in Q"),
        ((name, f"{error:.2g}") for name, error in parity.largest_error.items()),
    )
    return f"""## The files
{artifacts}

On {parity.states:,} states (on-policy, uniform inside the bounds, at the bounds) the runtimes lie
at most so far from the network in 64-bit arithmetic, where 32-bit rounding explains up to
{parity.largest_bound:.2g}:

{errors}

{parity.near_ties} of these states are near ties, where runtimes may choose differently.

`policy.onnx` is of opset 9 and IR version 4. It was tried with onnxruntime {OLDEST_ONNXRUNTIME},
the oldest that there is for Python 3.11, and with the newest.
"""


def _usage(manifest: Manifest) -> str:
    actions = ", ".join(f"{index} {name}" for index, name in enumerate(manifest.actions))
    return f"""## How to use it
Serve it with `python -m service --bundle FOLDER`, or run the file yourself:

```python
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("policy.onnx", providers=["CPUExecutionProvider"])
states = np.array([[0, 0, 0.05, 0]], np.float32)
q_values = session.run(["q_values"], {{"state": states}})[0]
action = int(q_values.argmax(axis=1)[0])  # {actions}
```
"""


def _limits(manifest: Manifest) -> str:
    return f"""## Limits
- It was trained and evaluated in simulation. How often it succeeds there is in the table above;
  nothing is promised for another plant.
- Outside the range in {_ranges_of(manifest)} it still answers, but nobody checked those answers;
  the service names such values in `out_of_range`.
- A Q-value is a discounted sum of rewards as the policy estimates it, not a probability, and not
  comparable between bundles.
"""


def _ranges_of(manifest: Manifest) -> str:
    """Say where the ranges of the state values come from."""
    return "training" if manifest.provenance.origin is None else "evaluation"


def _picture(manifest: Manifest, name: str) -> str:
    """Return the line that shows a picture, if the bundle has it, between empty lines."""
    return f"\n![{PICTURES[name]}]({name})\n" if name in manifest.extra_files else ""


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = (header, ("---",) * len(header), *rows)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _bound(value: float | None) -> str:
    return "unbounded" if value is None else f"{value:.4g}"
