"""Export of a policy, of a training run or imported, as a bundle.

What ships is what was evaluated: the scores are measured on the ONNX file that was written.
"""

import copy
import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import gymnasium as gym
import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleEnv

from models import bundle
from models.bundle import Bundle, BundleMissingError
from models.manifest import (
    Environment,
    Gate,
    GoldenState,
    Manifest,
    Network,
    Parity,
    Plant,
    RobustnessEvaluation,
    StateValue,
)
from training.envs.cartpole import ENVIRONMENT, time_limit
from training.envs.state_statistics import StateStatistics, StateSummary
from training.evaluation import recovery
from training.evaluation.episodes import EPISODES
from training.evaluation.evaluator import PolicyEvaluation, evaluate_policy
from training.evaluation.runtimes import from_network, from_onnx, from_torchscript
from training.export import formats, parity, plots
from training.export.animation import animation
from training.export.candidates import Candidate
from training.export.model_card import model_card
from training.export.reference import layers_of
from training.network import DQNetwork
from training.types import Float32Array, OnStage, QFunction, no_stage

ACTIONS = ("left", "right")
STATE = (
    ("cart_position", "m"),
    ("cart_velocity", "m/s"),
    ("pole_angle", "rad"),
    ("pole_angular_velocity", "rad/s"),
)


class GateError(Exception):
    """Raised when a policy does not pass its recipe's gate."""

    def __init__(self, gate: Gate) -> None:
        super().__init__(
            f"the policy does not pass the gate {gate.name}: {'; '.join(gate.failures)}"
        )


def export(
    candidate: Candidate,
    folder: Path,
    *,
    name: str,
    model_version: str,
    created: datetime,
    force: bool = False,
    episodes: int = EPISODES,
    scenario_episodes: int | None = None,
    on_stage: OnStage = no_stage,
) -> Bundle:
    """Export a policy as a bundle.

    The files are made, the ONNX file is evaluated, all runtimes are compared, and only then the
    bundle is put in its place. `force` exports a policy that fails its gate, with the failure in
    the manifest. `scenario_episodes` replaces each scenario's own number of episodes. `on_stage` is
    told what is being done.

    Raises `PolicyFileError` when a file does not agree with the network, `GateError` when the
    policy is not good enough, and `BundleError` when the place is taken. Nothing is written then.
    """
    bundle.check_place(folder)
    on_stage("the policy's files", 0.0)
    files = _make_files(candidate.network)

    result = evaluate_policy(
        files.onnx_policy,
        candidate.gate,
        stopped=candidate.provenance.stopped,
        plant=candidate.plant,
        episodes=episodes,
        scenario_episodes=scenario_episodes,
        on_stage=on_stage,
    )
    if not result.gate.passed and not force:
        raise GateError(result.gate)

    on_stage("pictures", 0.0)
    extra_files = _extra_files(candidate, name, files.onnx_policy, result.robustness)
    on_stage("comparison of the runtimes", 0.0)
    manifest = _manifest(
        candidate,
        files,
        result,
        name=name,
        model_version=model_version,
        created=created,
        extra_files=("README.md", *sorted(extra_files)),
    )
    contents = {
        **extra_files,
        "policy.onnx": files.onnx,
        "policy.pt": files.torchscript,
        "README.md": model_card(manifest),
    }
    return bundle.write(folder, manifest, contents)


def update(source: Bundle, result: PolicyEvaluation) -> Bundle:
    """Write a bundle anew with another evaluation of it: its policy stays, byte for byte.

    The model card and the pictures of the evaluation are made again; other files stay. Raises
    `BundleError`.
    """
    manifest, pictures = source.manifest, _pictures(source.manifest.name, result.robustness)
    kept = [file for file in manifest.extra_files if file not in pictures and file != "README.md"]
    updated = manifest.model_copy(
        update={
            "evaluation": result.evaluation,
            "robustness": result.robustness,
            "gate": result.gate,
            "extra_files": ("README.md", *sorted([*kept, *pictures])),
        }
    )
    try:
        contents = {file: (source.folder / file).read_bytes() for file in kept}
    except OSError as error:
        raise BundleMissingError(f"{error.filename}: cannot be read ({error.strerror})") from error
    for kind, artifact in manifest.artifacts.items():
        contents[artifact.file] = source.artifacts[kind]
    return bundle.write(
        source.folder, updated, {**contents, **pictures, "README.md": model_card(updated)}
    )


@dataclass(frozen=True)
class _Files:
    """The network, and the files that were made of it."""

    network: DQNetwork
    onnx: bytes
    torchscript: bytes
    onnx_policy: QFunction  # as onnxruntime runs the file


def _make_files(network: DQNetwork) -> _Files:
    network = copy.deepcopy(network).cpu()
    onnx, torchscript = formats.to_onnx(network), formats.to_torchscript(network)
    with tempfile.TemporaryDirectory() as temp_folder:
        path = Path(temp_folder) / "policy.onnx"
        path.write_bytes(onnx)
        return _Files(network, onnx, torchscript, from_onnx(path))


def _manifest(
    candidate: Candidate,
    files: _Files,
    result: PolicyEvaluation,
    *,
    name: str,
    model_version: str,
    created: datetime,
    extra_files: tuple[str, ...],
) -> Manifest:
    network = files.network
    states = _state_values(candidate.state_summary or _summary_of(result, candidate.plant))
    agreement, golden_states = _check_parity(candidate, files, states, result.states)
    return Manifest(
        name=name,
        version=model_version,
        created=created,
        provenance=candidate.provenance,
        environment=Environment(
            id=ENVIRONMENT,
            step_seconds=candidate.plant.step_seconds,
            max_episode_steps=time_limit(candidate.plant),
            plant=candidate.plant,
        ),
        state=states,
        actions=ACTIONS,
        network=Network(inputs=network.states, hidden=network.hidden, outputs=network.actions),
        evaluation=result.evaluation,
        robustness=result.robustness,
        gate=result.gate,
        parity=agreement,
        golden_states=golden_states,
        artifacts={
            "onnx": bundle.describe("policy.onnx", files.onnx),
            "torchscript": bundle.describe("policy.pt", files.torchscript),
        },
        extra_files=extra_files,
    )


def _check_parity(
    candidate: Candidate,
    files: _Files,
    values: tuple[StateValue, ...],
    on_policy: Float32Array,
) -> tuple[Parity, tuple[GoldenState, ...]]:
    """Compare all runtimes, and pick the golden states from what they were compared on."""
    # Where the environment has no bound, the range in training is the bound.
    low = [value.training_min if value.low is None else value.low for value in values]
    high = [value.training_max if value.high is None else value.high for value in values]
    states = parity.states_to_compare(
        on_policy,
        np.array(low, np.float32),
        np.array(high, np.float32),
        np.random.default_rng(candidate.provenance.seed),
    )
    runtimes = {
        "torch": from_network(files.network),
        "onnx": files.onnx_policy,
        "torchscript": from_torchscript(files.torchscript),
        **candidate.runtimes,
    }
    layers = layers_of(files.network)
    return parity.compare(layers, runtimes, states), parity.golden_states(layers, states)


def _extra_files(
    candidate: Candidate, name: str, q_values: QFunction, robustness: RobustnessEvaluation
) -> dict[str, bytes]:
    """Return the files for people, but for the model card."""
    files = {
        **_pictures(name, robustness),
        "surface.png": plots.decision_surface(q_values, f"{name}: preferred action"),
        "policy.gif": animation(q_values, candidate.plant),
    }
    if candidate.provenance.origin is None:
        files["scores.csv"] = plots.scores_csv(candidate.history)
    if candidate.history:
        files["scores.png"] = plots.scores_plot(
            candidate.history, f"{name}: {candidate.history_title}"
        )
    return files


def _pictures(name: str, robustness: RobustnessEvaluation) -> dict[str, bytes]:
    """Return the pictures of an evaluation."""
    files = {"robustness.png": plots.robustness_chart(robustness, f"{name}: robustness evaluation")}
    if robustness.recovery is not None:
        files["recovery.png"] = plots.recovery_map(robustness.recovery, f"{name}: recovery")
    return files


def _summary_of(result: PolicyEvaluation, plant: Plant) -> StateSummary:
    """Return range and quantiles of the states of an evaluation.

    The starts of the scenario `recovery` are among them: the policy was evaluated from these, too.
    """
    statistics = StateStatistics(np.random.default_rng(result.evaluation.seed))
    starts = recovery.starts_for(result.evaluation.seed, plant).starts
    statistics.update(np.concatenate([result.states, starts.astype(np.float32)]))
    summary = statistics.summary()
    assert summary is not None, "an evaluation has states"
    return summary


def _state_values(summary: StateSummary) -> tuple[StateValue, ...]:
    space = CartPoleEnv().observation_space
    assert isinstance(space, gym.spaces.Box)
    return tuple(
        StateValue(
            name=name,
            unit=unit,
            low=_finite(low),
            high=_finite(high),
            training_min=summary.minimum[index],
            training_max=summary.maximum[index],
            quantiles=summary.quantiles[index],
        )
        for index, ((name, unit), low, high) in enumerate(
            zip(STATE, space.low.tolist(), space.high.tolist(), strict=True)
        )
    )


def _finite(bound: float) -> float | None:
    return bound if np.isfinite(bound) else None
