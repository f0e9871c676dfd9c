"""A sweep as it is typed: by Ray on this machine, with a process killed, from start to report."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import torch
from pyarrow import parquet

from tests.support.programs import trial_processes
from tests.support.project import ROOT
from tests.support.service import clean_environment, wait_for
from training.export import formats
from training.recipes import recipe
from training.sweep.trials import Changes
from training.train import train

# It learns too slowly to end early, so that there is time to kill it.
TINY: Changes = {"steps": 4_000, "learning_rate": 1e-5, "learning_rate_end": 1e-5}
FAST = ["--episodes", "10", "--scenario-episodes", "4", "--checkpoint-every", "0.3"]


def command(storage: Path, *arguments: str) -> list[str]:
    changes = [f"{name}={value}" for name, value in TINY.items()]
    words = ["--recipe", "quick", "--set", *changes, "--storage", str(storage), *FAST, *arguments]
    return [sys.executable, "-m", "training", "sweep", *words]


def sha256_of_an_undisturbed_training(seed: int) -> str:
    import hashlib

    run = train(recipe("quick", {**TINY}), seed, torch.device("cpu"))
    return hashlib.sha256(formats.to_onnx(run.network)).hexdigest()


def test_a_trial_that_is_killed_ends_with_the_bytes_of_an_undisturbed_one(tmp_path: Path) -> None:
    storage, log = tmp_path / "sweep", tmp_path / "log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command(storage, "--seeds", "0-1"),
            cwd=ROOT,
            env=clean_environment(),
            stdout=output,
            stderr=output,
        ) as process,
    ):
        try:
            wait_for(lambda: any((storage / "checkpoints").glob("*.zip")), 120)
            wait_for(lambda: len(trial_processes(process.pid)) > 0)
            os.kill(trial_processes(process.pid)[0], signal.SIGKILL)
            assert process.wait(120) == 0, log.read_text()
        finally:
            process.kill()

    rows = parquet.read_table(storage / "results.parquet").to_pylist()
    assert [(row["trial"], row["seed"], row["status"]) for row in rows] == [
        (0, 0, "done"),
        (1, 1, "done"),
    ]
    assert sorted(row["attempts"] for row in rows) == [1, 2], log.read_text()
    for row in rows:
        assert row["onnx_sha256"] == sha256_of_an_undisturbed_training(row["seed"])
        assert row["hyperparameter: steps"] == 4_000
        assert row["commit"]
    assert "it goes on, attempt 2" in log.read_text()
    assert list((storage / "checkpoints").iterdir()) == []
    assert "2 of 2 trials have ended" in (storage / "README.md").read_text()
