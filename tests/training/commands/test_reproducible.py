"""Where SOURCE_DATE_EPOCH is set, a run that is exported again gives the same bundle."""

import subprocess
import sys
from pathlib import Path

import pytest

from models import bundle
from tests.support.project import ROOT
from tests.support.service import clean_environment
from training.__main__ import main


def test_a_run_that_is_exported_again_has_the_digest_that_its_training_gave_it(
    tmp_path: Path,
) -> None:
    """In processes of their own: what torch calls its classes counts up within one."""
    environment = clean_environment() | {"SOURCE_DATE_EPOCH": "1700000000"}
    run, first, second = tmp_path / "run", tmp_path / "a" / "policy", tmp_path / "b" / "policy"
    for words in (
        ("train", "baseline", "--episodes", "15", "--run", run, "--out", first, "--force"),
        ("export", run, "--out", second, "--force"),
    ):
        command = [sys.executable, "-m", "training", *map(str, words)]
        subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)

    manifest = bundle.read(first).manifest
    assert manifest.created.isoformat() == "2023-11-14T22:13:20+00:00"
    assert bundle.read(first).digest == bundle.read(second).digest
    for file in first.iterdir():
        assert file.read_bytes() == (second / file.name).read_bytes()


@pytest.mark.parametrize("value", ["yesterday", "1e9", "9" * 30])
def test_a_time_that_is_none_is_refused_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], value: str
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", value)
    assert main(["train", "--out", str(tmp_path / "b"), "--run", str(tmp_path / "run")]) == 1
    assert "SOURCE_DATE_EPOCH: must be whole seconds since 1970" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
