"""The unit for systemd is one that systemd reads without complaint, and a hardened one."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.project import ROOT

UNIT = ROOT / "deploy" / "systemd" / "upright.service"
EXPOSURE_LIMIT = 2.0  # of 10; systemd calls everything below 3 "OK"

pytestmark = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None,
    reason="needs systemd-analyze (apt-get install systemd); .ci/run installs it",
)


def analyze(*arguments: str) -> str:
    result = subprocess.run(
        ["systemd-analyze", *arguments],  # noqa: S607 - wherever the system has it
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return result.stdout + result.stderr


def test_it_is_valid(tmp_path: Path) -> None:
    # The program that it starts must be there to be found valid.
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.symlink_to("/bin/true")
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/upright", str(tmp_path)))
    assert analyze("verify", str(unit)) == ""


def test_it_is_exposed_to_little() -> None:
    report = analyze("security", "--offline=true", str(UNIT))
    exposure = re.search(r"exposure level for upright\.service: ([\d.]+)", report)
    assert exposure is not None
    assert float(exposure[1]) <= EXPOSURE_LIMIT
