"""Programs of the machine that some tests need."""

import shutil

import pytest


def needed(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"needs {program}, which this machine has not; .ci/run installs it")
    return found
