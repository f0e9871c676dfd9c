"""What can be exported: the policy of a training run, or one that another program has trained."""

import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from models.manifest import Plant, Provenance
from training.envs.plant import STANDARD
from training.envs.state_statistics import StateSummary
from training.evaluation.gate import GateName
from training.importing.policy_file import ImportedPolicy
from training.network import DQNetwork
from training.recipes import BaselineRecipe, title
from training.trainer import History, Run
from training.types import QFunction

LIBRARIES = ("torch", "gymnasium", "numpy", "onnx", "onnxruntime")
CODE = ("training", "models/*.py", "pyproject.toml", "constraints.txt")  # what a policy depends on
ROOT = Path(__file__).parents[2]
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Candidate:
    """A policy that is exported if it passes its gate."""

    network: DQNetwork
    plant: Plant
    gate: GateName
    provenance: Provenance
    state_summary: StateSummary | None  # none where only the states of its evaluation are known
    history: History = field(default_factory=list)
    history_title: str = ""
    runtimes: Mapping[str, QFunction] = field(default_factory=dict)  # to be compared, too


def from_run(run: Run, *, commit: str | None = None) -> Candidate:
    """Return the policy of a training run.

    `commit` is that of the project where the code lies outside of git.
    """
    assert run.state_summary is not None, "a run without a step cannot be exported"
    return Candidate(
        network=run.network,
        plant=STANDARD if isinstance(run.recipe, BaselineRecipe) else run.recipe.plant,
        gate=run.recipe.gate,
        provenance=Provenance(
            recipe=title(run.recipe),
            hyperparameters=run.recipe.model_dump(mode="json"),
            seed=run.seed,
            device=run.device,
            processor=run.processor,
            versions=_versions(),
            commit=current_commit() or commit,
            steps=run.steps,
            stopped=run.stopped,
            seconds=run.seconds,
        ),
        state_summary=run.state_summary,
        history=run.history,
        history_title=f"recipe {run.recipe.name}, seed {run.seed}",
    )


def from_import(policy: ImportedPolicy, gate: GateName, plant: Plant = STANDARD) -> Candidate:
    """Return a policy that another program has trained: what is unknown of that says so."""
    return Candidate(
        network=policy.network,
        plant=plant,
        gate=gate,
        provenance=Provenance(
            recipe="import",
            hyperparameters={},
            seed=0,
            device=UNKNOWN,
            processor=UNKNOWN,
            versions=_versions(),
            commit=current_commit(),
            steps=0,
            stopped="imported",
            seconds=0.0,
            origin=policy.origin,
        ),
        state_summary=None,
        runtimes=policy.runtimes,
    )


def _versions() -> dict[str, str]:
    """Return the releases of Python and of the libraries that export."""
    return {
        "python": platform.python_version(),
        **{library: version(library) for library in LIBRARIES},
    }


def current_commit() -> str | None:
    """Return the commit of the checkout; none outside of git.

    It ends in +changes where the code that trains and exports differs from the commit.
    """
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"],  # noqa: S607 - git is found by PATH
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        changed = subprocess.run(  # noqa: S603 - fixed words
            ["git", "diff", "--quiet", "HEAD", "--", *CODE],  # noqa: S607 - git is found by PATH
            cwd=ROOT,
            capture_output=True,
            check=False,
        ).returncode
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}+changes" if changed else commit
