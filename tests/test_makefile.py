"""`make` finds a Python that is new enough, loses no run, and leaves the committed bundle alone."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.project import ROOT

MAKE = shutil.which("make") or "make"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with what `make setup` looks at."""
    files = ("Makefile", "pyproject.toml", "constraints.txt", "client/pyproject.toml")
    for name in (*files, "tests/deploy/requirements.txt", "tests/deploy/package.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def make(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [MAKE, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": f"{Path(sys.executable).parent}:{Path(MAKE).parent}:/usr/bin:/bin"},
    )


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_an_older_python_is_named_as_what_is_wrong(checkout: Path) -> None:
    old = script(checkout / "old" / "python", "exit 1")
    made = make(checkout, "setup", f"PYTHON={old}")
    assert made.returncode == 2
    told = " ".join(made.stderr.split())
    assert "Python 3.11 or newer is needed, and none was found" in told
    assert "ResolutionImpossible" not in told
    assert not (checkout / ".venv").exists()


def test_an_environment_of_an_older_python_is_made_anew(checkout: Path) -> None:
    script(checkout / ".venv" / "bin" / "python", "exit 1")
    made = make(
        checkout, "setup", f"PYTHON={sys.executable}", "INSTALL=true #", "DEPLOY_TOOLS=true"
    )
    assert made.returncode == 0, made.stderr
    version = subprocess.run(
        [checkout / ".venv" / "bin" / "python", "-c", "import sys; print(sys.version_info[:2])"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert version.stdout.strip() == str(tuple(sys.version_info[:2]))


@pytest.mark.parametrize(
    ("arguments", "flags"),
    [
        ([], "train robust --seed 0 --out my-policy"),
        (["RESUME=1", "SEED=3"], "train robust --seed 3 --out my-policy --resume"),
        (["RESTART=1", "OUT=other"], "train robust --seed 0 --out other --restart"),
    ],
)
def test_a_training_is_thrown_away_only_where_that_is_asked_for(
    arguments: list[str], flags: str
) -> None:
    planned = make(ROOT, "-n", "train", *arguments).stdout.replace("\\\n", " ").replace('"', "")
    assert flags in " ".join(planned.split())
    assert ("--restart" in planned) is ("RESTART=1" in arguments)
    assert "cartpole-dqn" not in planned
