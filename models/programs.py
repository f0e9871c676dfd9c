"""What the programs of training and service have in common where they meet the system."""

import os
import sys


def explain_missing_library(error: ModuleNotFoundError, remedy: str) -> str:
    """Return a line that says which library is not installed, and what to do.

    Raises the error again where a module of this project is missing, which no installation mends.
    """
    library = (error.name or "").partition(".")[0]
    if library in ("models", "service", "training", ""):
        raise error
    return f"{library} is not installed for {sys.executable}: in a checkout, {remedy}"


def discard_output() -> None:
    """Let what is written to standard output from now on, or is held by Python, go nowhere.

    Python writes what it still holds when it ends, and would fail again, in its own words.
    """
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
