"""Training of a population, from its seed to its bundle."""

import subprocess
import sys
from pathlib import Path

import torch

from models import bundle
from models.bundle import Bundle
from tests.support.project import ROOT
from tests.support.recipes import small_robust
from training.recipes import recipe
from training.train import train
from training.trainer import Progress

CPU = torch.device("cpu")
SMALL = small_robust(eval_frequency=100)


def test_same_seed_twice_gives_the_same_files_and_manifest_but_for_times(tmp_path: Path) -> None:
    """Each in a process of its own, as it is done.

    TorchScript numbers the classes that a process has exported.
    """

    def bundle_of(folder: Path) -> Bundle:
        words = [
            "robust",
            "--agents",
            "3",
            "--steps",
            "1600",
            "--num-envs",
            "8",
            "--eval-frequency",
            "100",
            "--learning-starts",
            "1000",
            "--buffer-size",
            "5000",
            "--force",
        ]
        places = ["--out", str(folder / "p"), "--run", str(folder / "run")]
        subprocess.run(
            [sys.executable, "-m", "training", "train", *words, *places],
            cwd=ROOT,
            check=True,
            capture_output=True,
        )
        return bundle.read(folder / "p")

    first, again = bundle_of(tmp_path / "a"), bundle_of(tmp_path / "b")
    assert first.artifacts == again.artifacts
    untimed = [
        each.manifest.model_dump(exclude={"created": True, "provenance": {"seconds"}})
        for each in (first, again)
    ]
    assert untimed[0] == untimed[1]


def test_quick_learns_to_balance_within_its_steps_and_stops_at_the_first_agent_that_passes() -> (
    None
):
    reports: list[Progress] = []
    run = train(recipe("quick", {}), 0, CPU, on_progress=reports.append)
    assert run.stopped == "solved"
    assert reports[-1].metrics["best_score"] == 1
    assert run.history[-1]["steps"] < 60_000
    assert run.steps == run.history[-1]["steps"] * 16


def test_every_check_reports_what_a_program_may_draw() -> None:
    reports: list[Progress] = []
    train(SMALL, 0, CPU, on_progress=reports.append)
    reports = [report for report in reports if report.is_logged]
    assert [report.metrics["steps"] for report in reports] == [2_400, 4_800]
    for report in reports:
        assert report.is_logged
        assert report.metrics["finite_agents"] == 3
        assert report.metrics["loss"] > 0
        for name in (
            "q_value",
            "action_gap",
            "gradient_norm",
            "terminal_share",
            "best_return",
            "epsilon",
            "seconds",
        ):
            assert name in report.metrics


def test_training_that_uses_up_its_steps_without_a_pass_is_not_solved() -> None:
    run = train(recipe("quick", {"steps": 600, "agents": 2}), 0, CPU)
    assert run.stopped == "limit"
