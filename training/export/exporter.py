"""Export: a training run in, a proved bundle out. What ships is what was evaluated, from the file that was written."""

import copy
import platform
import subprocess
import tempfile
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import gymnasium as gym
import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from numpy.typing import NDArray

from models import bundle
from models.bundle import Bundle
from models.manifest import (
    Environment,
    Evaluation,
    Gate,
    Manifest,
    Network,
    Provenance,
    RobustnessEvaluation,
    ScenarioResult,
    StateValue,
)
from training.export import formats
from training.evaluation import gate
from training.export import parity
from training.export import model_card as report
from training import seeding as seeds
from training.evaluation.episodes import EPISODES, QFunction, evaluation, play
from training.evaluation.robustness import SCORECARD, examine
from training.export.animation import film
from training.evaluation.lqr import lqr
from training.recipes import title
from training.trainer import ENVIRONMENT, Run

ACTIONS = ("left", "right")
STATE = (
    ("cart_position", "m"),
    ("cart_velocity", "m/s"),
    ("pole_angle", "rad"),
    ("pole_angular_velocity", "rad/s"),
)
LIBRARIES = ("torch", "gymnasium", "numpy", "onnx", "onnxscript", "onnxruntime")


class GateError(Exception):
    """Raised when a policy does not pass its recipe's gate."""

    def __init__(self, result: Gate) -> None:
        super().__init__(
            f"the policy does not pass the gate {result.name}: {'; '.join(result.failures)}"
        )


def export(
    run: Run,
    folder: Path,
    *,
    name: str,
    model_version: str,
    created: datetime,
    force: bool = False,
    episodes: int = EPISODES,
    scenario_episodes: int | None = None,
) -> Bundle:
    """Export a run as a bundle: write the files, prove that they agree, judge the written ONNX file, and only then put it in place.

    `force` exports a policy that fails its gate, with the failure in the manifest. `scenario_episodes` replaces each scenario's own number.
    Raises `ExportError` when a file does not agree with the network, `GateError` when the policy is not good enough, and `BundleError` when
    the place is taken. Nothing is written then.
    """
    bundle.check_place(folder)
    network = copy.deepcopy(run.network).cpu()
    onnx_file, torchscript_file = formats.to_onnx(network), formats.to_torchscript(network)
    with tempfile.TemporaryDirectory() as temporary:
        written = Path(temporary) / "policy.onnx"
        written.write_bytes(onnx_file)
        exported = formats.from_onnx(written)

    played = play(exported, episodes=episodes)
    judged = evaluation(played)
    examined = evaluate_robustness(exported, episodes=scenario_episodes)
    passed = gate.judge(run.recipe.gate, judged, examined)
    if not passed.passed and not force:
        raise GateError(passed)

    states = _state_values(run)
    # Where the environment has no bound, what training saw is the bound.
    low = np.array(
        [value.training_min if value.low is None else value.low for value in states], np.float32
    )
    high = np.array(
        [value.training_max if value.high is None else value.high for value in states], np.float32
    )
    compared = parity.states_to_compare(played.states, low, high, np.random.default_rng(run.seed))
    runtimes = {
        "torch": formats.from_network(network),
        "onnx": exported,
        "torchscript": formats.from_torchscript(torchscript_file),
    }
    agreement = parity.compare(runtimes, compared)

    files = _extra_files(run, name, exported, examined)
    manifest = Manifest(
        name=name,
        version=model_version,
        created=created,
        provenance=_provenance(run),
        environment=_environment(),
        state=states,
        actions=ACTIONS,
        network=Network(inputs=network.states, hidden=network.hidden, outputs=network.actions),
        evaluation=judged,
        robustness=examined,
        gate=passed,
        parity=agreement,
        golden_states=parity.golden_states(exported, compared),
        artifacts={
            "onnx": bundle.describe("policy.onnx", onnx_file),
            "torchscript": bundle.describe("policy.pt", torchscript_file),
        },
        extra_files=("README.md", *sorted(files)),
    )
    files |= {
        "policy.onnx": onnx_file,
        "policy.pt": torchscript_file,
        "README.md": report.model_card(manifest),
    }
    return bundle.write(folder, manifest, files)


def judge(
    file: bytes, gate_name: gate.GateName, *, episodes: int = EPISODES, seed: int = seeds.EXAM.start
) -> tuple[Evaluation, RobustnessEvaluation, Gate]:
    """Judge an ONNX file as `export` does."""
    q_values = formats.from_onnx(file)
    judged, examined = (
        evaluation(play(q_values, episodes=episodes, seed=seed), seed),
        evaluate_robustness(q_values, seed=seed),
    )
    return judged, examined, gate.judge(gate_name, judged, examined)


def evaluate_robustness(
    q_values: QFunction, *, seed: int = seeds.EXAM.start, episodes: int | None = None
) -> RobustnessEvaluation:
    """Run a policy and an LQR in the same episodes of every scenario, side by side."""

    def both(states: NDArray[np.float32]) -> NDArray[np.int64]:
        middle = len(states) // 2
        return np.concatenate([q_values(states[:middle]).argmax(axis=1), lqr(states[middle:])])

    shares, references = examine(both, seed, runs=episodes, copies=2)
    columns = (
        ScenarioResult(
            name=column.name,
            steps=column.steps,
            episodes=episodes or column.runs,
            success_rate=float(share),
            lqr_success_rate=float(reference),
        )
        for column, share, reference in zip(SCORECARD, shares, references, strict=True)
    )
    return RobustnessEvaluation(seed=seed, scenarios=tuple(columns))


def _extra_files(
    run: Run, name: str, q_values: QFunction, examined: RobustnessEvaluation
) -> dict[str, bytes]:
    """Return the files for people, but for the model card."""
    files = {
        "scores.csv": report.scores_csv(run.history),
        "robustness.png": report.robustness_chart(examined, f"{name}: robustness evaluation"),
        "surface.png": report.decision_surface(q_values, f"{name}: what it prefers"),
        "policy.gif": film(q_values),
    }
    if run.history:
        files["scores.png"] = report.scores_plot(
            run.history, f"{name}: recipe {run.recipe.name}, seed {run.seed}"
        )
    return files


def _environment() -> Environment:
    spec = gym.spec(ENVIRONMENT)
    assert spec.max_episode_steps is not None
    return Environment(
        id=ENVIRONMENT, step_seconds=CartPoleEnv().tau, max_episode_steps=spec.max_episode_steps
    )


def _state_values(run: Run) -> tuple[StateValue, ...]:
    space = CartPoleEnv().observation_space
    assert isinstance(space, gym.spaces.Box)
    return tuple(
        StateValue(
            name=name,
            unit=unit,
            low=_finite(low),
            high=_finite(high),
            training_min=run.states_seen["low"][index],
            training_max=run.states_seen["high"][index],
            quantiles=run.states_seen["quantiles"][index],
        )
        for index, ((name, unit), low, high) in enumerate(
            zip(STATE, space.low.tolist(), space.high.tolist(), strict=True)
        )
    )


def _finite(bound: float) -> float | None:
    return bound if np.isfinite(bound) else None


def _provenance(run: Run) -> Provenance:
    return Provenance(
        recipe=title(run.recipe),
        hyperparameters=run.recipe.model_dump(mode="json"),
        seed=run.seed,
        device=run.device,
        versions={
            "python": platform.python_version(),
            **{library: version(library) for library in LIBRARIES},
        },
        commit=_commit(),
        steps=run.steps,
        stopped=run.stopped,
        seconds=run.seconds,
    )


def _commit() -> str | None:
    """Return the checkout's commit, with +changes where the code that trains and exports differs from it; none outside of git."""
    root = Path(__file__).parents[2]
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True
        ).stdout.strip()
        code = ["training", "models/*.py", "pyproject.toml", "constraints.txt"]
        changed = subprocess.run(
            ["git", "diff", "--quiet", "HEAD", "--", *code],
            cwd=root,
            capture_output=True,
            check=False,
        ).returncode
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}+changes" if changed else commit
