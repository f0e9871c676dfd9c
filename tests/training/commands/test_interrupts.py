"""Ctrl-C at any moment: no traceback, and what finishes the work is named."""

import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from models import bundle
from tests.support.project import ROOT
from tests.support.service import clean_environment
from training.__main__ import main


def interrupted_while_importing(library: str, *words: str) -> tuple[int, str]:
    """Interrupt a program in the midst of its imports; return its exit status and what it said."""
    with subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", *words],
        cwd=ROOT,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if re.search(rf"\| +{library}$", line):
                break
        process.send_signal(signal.SIGINT)
        rest = [line for line in process.stdout if not line.startswith("import time:")]
        return process.wait(60), "".join(rest)


@pytest.mark.parametrize(
    ("library", "words"),
    [
        ("pydantic_core", ("service", "--port", "0")),
        ("numpy", ("service", "--port", "0")),
        ("numpy", ("service", "replay", "nothing")),
        ("tyro._settings", ("training", "train", "--out", "nothing")),
        ("torch._utils", ("training", "train", "--out", "nothing")),
    ],
)
def test_an_import_that_is_interrupted_ends_without_a_word(
    library: str, words: tuple[str, ...]
) -> None:
    assert interrupted_while_importing(library, *words) == (-signal.SIGINT, "")


def test_an_ignored_ctrl_c_stays_ignored() -> None:
    """As a shell starts what is to run in the background."""
    program = (
        "import signal; from models.programs import silent_interrupts\n"
        "with silent_interrupts(): signal.raise_signal(signal.SIGINT)"
    )
    command = ["/bin/sh", "-c", 'trap "" INT; exec "$0" "$@"', sys.executable, "-c", program]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def test_an_export_that_is_interrupted_names_the_command_that_finishes_it(tmp_path: Path) -> None:
    out, run = tmp_path / "my bundle", tmp_path / "run"
    words = ["--stop-mean", "20", "--run", str(run), "--out", str(out), "--name", "mine"]
    command = [sys.executable, "-m", "training", "train", "baseline", *words]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            if line.startswith("stopped solved"):
                break
        process.send_signal(signal.SIGINT)
        errors = process.stderr.read()
        assert process.wait(60) == 130
    assert "Traceback" not in errors
    assert errors.endswith("python -m training: interrupted\n")
    assert not out.exists()
    finishing = re.search(r"python -m training (export .*) finishes it", errors)
    assert finishing is not None
    assert main(shlex.split(finishing[1])) == 0
    assert bundle.read(out).manifest.name == "mine"


def test_an_evaluation_that_is_interrupted_is_no_failed_gate() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "training", "evaluate"]
    with subprocess.Popen(
        [*command, "models/cartpole-dqn"], cwd=ROOT, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.endswith("onnxruntime\n"):
                break
        # It runs by now, or is about to: until then Ctrl-C ends it without a word.
        process.send_signal(signal.SIGINT)
        rest = [line for line in process.stderr if not line.startswith("import time:")]
        code = process.wait(60)
    assert (code, rest) in [
        (130, ["python -m training: interrupted\n"]),
        (-signal.SIGINT, []),
    ]
