"""The results of a sweep: a row a trial, and all rows as one Parquet table."""

import io
import json
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow
from pyarrow import parquet
from pydantic import BaseModel, JsonValue

from models.bundle import Bundle
from models.manifest import ScenarioResult
from training.export.plots import MEAN_WINDOW
from training.recipes import AnyRecipe, title
from training.sweep.plan import Sweep
from training.sweep.storage import Storage
from training.sweep.trials import Trial
from training.trainer import History, Run

Row = dict[str, JsonValue]

DONE, FAILED, ENDED_EARLY = "done", "failed", "ended early"  # a row's status
TABLE = "results.parquet"
ROWS = "rows"
HYPERPARAMETER = "hyperparameter: "  # the beginnings of columns' names
RATE, LQR_RATE = "success rate: ", "LQR: "


def path_of(trial: Trial) -> str:
    """Return the name of a trial's row among the sweep's files."""
    return f"{ROWS}/{trial.name}.json"


def checkpoint_path_of(trial: Trial) -> str:
    """Return the name of a trial's last checkpoint among the sweep's files."""
    return f"checkpoints/{trial.name}.zip"


def rate_column(scenario: str) -> str:
    """Return the column of a policy's success rate in a scenario."""
    return RATE + scenario


def lqr_column(scenario: str) -> str:
    """Return the column of the LQR's success rate in the same episodes."""
    return LQR_RATE + scenario


def row_of(sweep: Sweep, trial: Trial, run: Run, written: Bundle) -> Row:
    """Return the results of a trial that has ended."""
    manifest = written.manifest
    evaluation, provenance = manifest.evaluation, manifest.provenance
    scenarios = manifest.robustness.scenarios
    return {
        **_identity(sweep, trial, run.recipe, DONE),
        "passed": manifest.gate.passed,
        "gate": manifest.gate.name,
        "gate_failures": "; ".join(manifest.gate.failures),
        "stopped": run.stopped,
        "steps": run.steps,
        "train_seconds": run.seconds,
        "validation_score": validation_score(run.history),
        "mean_score": evaluation.mean,
        "worst_score": evaluation.minimum,
        "success_rate": evaluation.success_rate,
        "mean_rate": sum(each.success_rate for each in scenarios) / len(scenarios),
        "least_ratio": least_ratio(scenarios),
        **{rate_column(each.name): each.success_rate for each in scenarios},
        **{lqr_column(each.name): each.lqr_success_rate for each in scenarios},
        **hyperparameters(run.recipe),
        "bundle": f"bundles/{trial.name}" if manifest.gate.passed else None,
        "digest": written.digest,
        "onnx_sha256": manifest.artifacts["onnx"].sha256,
        "torchscript_sha256": manifest.artifacts["torchscript"].sha256,
        "device": run.device,
        "processor": run.processor,
        "commit": provenance.commit,
        "torch": provenance.versions["torch"],
    }


def row_without_policy(
    sweep: Sweep,
    trial: Trial,
    status: str,
    *,
    reason: str,
    validation_score: float | None = None,
    attempts: int = 1,
) -> Row:
    """Return the row of a trial that failed, or that a search has ended early."""
    recipe = sweep.recipe_of(trial)
    return {
        **_identity(sweep, trial, recipe, status),
        "reason": reason,
        "validation_score": validation_score,
        "attempts": attempts,
        **hyperparameters(recipe),
    }


def _identity(sweep: Sweep, trial: Trial, recipe: AnyRecipe, status: str) -> Row:
    return {
        "sweep": sweep.id,
        "trial": trial.number,
        "variation": trial.variation,
        "recipe": title(recipe),
        "seed": trial.seed,
        "status": status,
        "reason": None,
    }


def validation_score(history: History) -> float | None:
    """Return the best validation score of a training, by which searches choose.

    The tutorial's training has none: it is the best mean of so many episodes' scores there.
    """
    if not history:
        return None
    if "best_score" in history[0]:
        return max(row["best_score"] for row in history)
    scores = np.array([row["score"] for row in history])
    window = min(len(scores), MEAN_WINDOW)
    return float(np.convolve(scores, np.full(window, 1 / window), "valid").max())


def score_of(metrics: Mapping[str, float]) -> float | None:
    """Return the validation score among the metrics of a training; between checks there is none."""
    return metrics.get("best_score", metrics.get("mean_score"))


def least_ratio(scenarios: Sequence[ScenarioResult]) -> float | None:
    """Return the least success rate, by the LQR's, of the scenarios that the gate asks for."""
    ratios = (
        each.success_rate / each.lqr_success_rate
        for each in scenarios
        if each.is_required and each.lqr_success_rate
    )
    return min(ratios, default=None)


def hyperparameters(recipe: AnyRecipe) -> Row:
    """Return every hyperparameter by the name of its column."""
    return {
        HYPERPARAMETER + name: value
        for name, value in flattened(recipe).items()
        if name not in ("name", "gate")
    }


def flattened(recipe: BaseModel) -> Row:
    """Return the fields of a model, those of models in it with a dot."""
    values: Row = {}
    for name, value in recipe.model_dump(mode="json").items():
        if isinstance(value, dict):
            values.update({f"{name}.{part}": inner for part, inner in value.items()})
        else:
            values[name] = value
    return values


def to_json(row: Row) -> bytes:
    """Return a row as the content of its file."""
    return json.dumps(row).encode()


def parse(content: bytes) -> Row:
    """Return a row from its file."""
    row: Row = json.loads(content)
    return row


def number(row: Row, name: str) -> float | None:
    """Return a number of a row; none where there is none by this name."""
    value = row.get(name)
    return float(value) if isinstance(value, int | float) else None


def read_rows(storage: Storage) -> list[Row]:
    """Return the rows of all trials that have ended, in the trials' order."""
    names = [f"{ROWS}/{name}" for name in storage.names(ROWS)]
    return [parse(content) for content in storage.read_all(names)]


def table(rows: Sequence[Row]) -> pyarrow.Table:
    """Return rows as a table with every column that any of them has."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return pyarrow.table({name: [row.get(name) for row in rows] for name in columns})


def to_parquet(rows: Sequence[Row]) -> bytes:
    """Return rows as a Parquet file."""
    content = io.BytesIO()
    parquet.write_table(table(rows), content, compression="zstd")
    return content.getvalue()
