"""Some of what `make fuzz` sends a million of."""

import subprocess
import sys

from tests.support.project import ROOT


def test_twenty_thousand_mutated_bodies_and_some_mutated_connections_find_nothing() -> None:
    command = [
        sys.executable,
        "-m",
        "tests.fuzz",
        "--bodies",
        "20000",
        "--connections",
        "300",
        "--seed",
        "1",
    ]
    result = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.startswith("20000 bodies in ")
