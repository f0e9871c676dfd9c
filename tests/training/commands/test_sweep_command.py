"""What is typed after `sweep`, where nothing is trained."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.project import ROOT
from tests.support.service import clean_environment
from training.__main__ import main


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--seeds", "5-2"], "--seeds: '5-2' is empty: its first seed is above its last"),
        (["--seeds", "a"], "--seeds: 'a' is no seed and no range"),
        (["--recipe", "miracle"], "--recipe: expected one of "),
        (["--set", "steps"], "--set: 'steps' names no value"),
        (["--set", "model_selection=best"], "--set: 'best' is no value of TOML"),
        (["--cpus-per-trial", "0"], "--cpus-per-trial"),
        (["--scenario-episodes", "2001"], "--scenario-episodes"),
        (["--ablation", "--search", "a.toml"], "--search"),
    ],
)
def test_wrong_words_are_refused_by_the_flag(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], named: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["sweep", "--storage", str(tmp_path / "s"), *arguments])
    assert ended.value.code == 2
    assert named in " ".join(capsys.readouterr().err.split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--set", "steppes=3"], "steppes: recipe quick has no such hyperparameter"),
        (["--set", "gamma=2.0"], "gamma: "),
        (["--search", "nowhere.toml"], "nowhere.toml: cannot be read"),
        (["--plants", "nowhere.toml"], "nowhere.toml: cannot be read"),
        (["--recipe", "baseline", "--ablation"], "--ablation: recipe baseline has no rows"),
        (["--storage", "nope://there"], "nope://there: no storage by this name"),
        (["--report", "nowhere"], "holds no sweep: there is no sweep.json"),
    ],
)
def test_what_cannot_be_done_is_one_line_before_anything_is_trained(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    named: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", "--recipe", "quick", *arguments]) == 1
    told = capsys.readouterr().err
    assert named in told
    assert len(told.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_a_cluster_that_does_not_answer_is_named_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], address: str
) -> None:
    storage = str(tmp_path / "sweep")
    words = ["--recipe", "quick", "--address", address, "--dry-run", "--storage", storage]
    assert main(["sweep", *words]) == 1
    assert f"--address: {address}: nobody answers there" in capsys.readouterr().err


def test_a_dry_run_prints_trials_time_and_cost_and_makes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--recipe", "quick", "--seeds", "3,5", "--cpus", "2", "--price", "100", "--dry-run"]
    assert main(["sweep", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["trial 0: quick, seed 3", "trial 1: quick, seed 5"]
    assert lines[2].startswith("2 trials of at most ")
    assert "2 at a time" in lines[2]
    assert "CPU hours, cost " in lines[2]
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_is_read_by_programs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--recipe", "quick", "--ablation", "--seeds", "0", "--dry-run", "--json"]
    assert main(["sweep", *words]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == {"trial": 0, "variation": "the whole recipe", "seed": 0, "changes": {}}
    assert lines[-1]["trials"] == len(lines) - 1


def test_without_ray_a_line_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['ray'] = None\n"
        "from training.__main__ import main\n"
        "sys.exit(main(['sweep', '--dry-run']))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert "sweep: ray is not installed for " in result.stderr
    assert "install --constraint constraints.txt '.[train,ray]'" in result.stderr
