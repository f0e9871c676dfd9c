import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest
import torch

from models import bundle
from models.bundle import MANIFEST
from tests.conftest import COMMITTED, ROOT, Start
from training import checkpoint, formats
from training.__main__ import main
from training.network import DQNetwork
from training.recipe import recipe
from training.train import train


def test_a_short_training_goes_all_the_way_to_an_answer(tmp_path: Path, start: Start) -> None:
    """Train, prove, export, start the service on the result, ask it."""
    out, run = tmp_path / "small", tmp_path / "run"
    assert main(["train", "--seed", "1", "--stop-mean", "20", "--hidden", "16,8", "--out", str(out), "--run", str(run)]) == 0
    made = bundle.read(out)
    assert made.manifest.network.hidden == (16, 8)
    assert made.manifest.provenance.hyperparameters["stop_mean"] == 20
    with start("--bundle", str(out)) as address:
        answer = httpx2.post(f"{address}/act", json={"state": [0, 0, 0.05, 0]})
    assert answer.status_code == 200
    assert answer.json()["digest"] == made.digest
    assert len(answer.json()["q_values"]) == 2
    assert {entry.name for entry in out.iterdir()} == {MANIFEST, "policy.onnx", "policy.pt", "README.md", "scores.csv", "scores.png"}
    assert (out / "scores.csv").read_text().count("\n") == made.manifest.provenance.episodes + 1


def test_unsolved_training_writes_no_bundle_and_keeps_its_run_for_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, run = tmp_path / "small", tmp_path / "run"
    assert main(["train", "--episodes", "15", "--out", str(out), "--run", str(run)]) == 1
    assert not out.exists()
    assert "python -m training export" in capsys.readouterr().out
    assert main(["export", str(run), "--out", str(out)]) == 0
    assert bundle.read(out).manifest.provenance.stopped == "episodes"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--learning-rate", "-1"], "learning_rate"),
        (["--batch", "5000"], "batch"),
        (["--discount", "2"], "discount"),
        (["--hidden", "24,x"], "--hidden"),
        (["--seed", "-1"], "--seed"),
        (["--seed", str(2**31)], "--seed"),
        (["--recipe", "miracle"], "--recipe"),
        (["--device", "abacus"], "--device"),
    ],
)
def test_wrong_words_are_refused_by_name_before_anything_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], named: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["train", "--out", str(tmp_path / "b"), *arguments])
    assert ended.value.code == 2
    assert named in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_is_taken_is_refused_before_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "note.txt").write_text("mine")
    assert main(["train", "--out", str(tmp_path)]) == 1
    assert str(tmp_path) in capsys.readouterr().err
    assert [entry.name for entry in tmp_path.iterdir()] == ["note.txt"]


def test_evaluate_judges_the_file_on_episodes_and_seed_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(COMMITTED), "--episodes", "30", "--seed", str(2**31 + 5), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["episodes"] == 30
    assert result["seed"] == 2**31 + 5
    assert result["bundle"] == bundle.read(COMMITTED).digest


def test_evaluate_and_export_name_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(tmp_path / "nothing")]) == 1
    assert "nothing" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "norun"), "--out", str(tmp_path / "b")]) == 1
    assert "norun" in capsys.readouterr().err


def test_ctrl_c_ends_cleanly_and_keeps_what_was_learned(tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "training", "train", "--out", str(tmp_path / "b"), "--run", str(run)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline()]
        while "episode" not in lines[-1]:
            lines.append(process.stdout.readline())
            assert lines[-1], "".join(lines)
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        code = process.wait(20)
    assert code == 130
    assert "Traceback" not in rest
    assert "interrupted after" in rest
    assert main(["export", str(run), "--out", str(tmp_path / "b")]) == 0
    assert bundle.read(tmp_path / "b").manifest.provenance.stopped == "interrupted"


def test_a_terminal_sees_a_live_line_and_a_file_only_the_kept_ones(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "training", "train", "--episodes", "200", "--out", str(tmp_path / "b"), "--run", str(tmp_path / "run")]
    quiet = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    assert "\x1b" not in quiet
    assert "\r" not in quiet
    assert [line.split()[1] for line in quiet.splitlines() if line.startswith("episode  ")] == ["100/200", "200/200"]

    main_end, program_end = os.openpty()
    with subprocess.Popen(command, cwd=ROOT, stdout=program_end, env={**os.environ, "TERM": "xterm", "COLUMNS": "120"}) as process:
        os.close(program_end)
        shown = b""
        started = time.monotonic()
        while time.monotonic() - started < 60:
            try:
                part = os.read(main_end, 65_536)
            except OSError:  # the terminal is gone: the program has ended
                break
            shown += part
    os.close(main_end)
    assert process.returncode == 1
    assert shown.count(b"episode ") > 3
    assert b"\x1b[2K" in shown  # a line was overwritten


def test_help_is_quick_and_shows_a_first_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "train" in shown
    assert "evaluate" in shown
    assert "export" in shown
    assert "A first run:" in shown


def test_a_gate_that_fails_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The exporter is made to write another network's weights, which cannot be had on demand otherwise."""
    run = train(recipe("baseline", {"episodes": 5}), 0, torch.device("cpu"))
    checkpoint.write(tmp_path / "run", run)
    honest = formats.to_onnx
    monkeypatch.setattr(formats, "to_onnx", lambda network: honest(DQNetwork(network.hidden)))
    assert main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "b")]) == 1
    assert "nothing was written" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()
