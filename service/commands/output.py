"""The results of commands on standard output: out when the call returns, or refused in one line."""

import os
import sys

from models.text import printable


class OutputError(Exception):
    """Raised when standard output takes no text: it is closed, its disk is full."""


def print_result(text: str) -> None:
    """Write a line, and return once the system has it. Raises `OutputError`."""
    if sys.stdout is None:  # so Python starts where the descriptor is closed
        raise OutputError("standard output is closed")
    try:
        sys.stdout.write(f"{printable(text)}\n")
        sys.stdout.flush()
    except OSError as error:
        # Python writes what it still holds when it ends, and would fail again, in its own words.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OutputError(f"standard output cannot be written ({error.strerror})") from error
