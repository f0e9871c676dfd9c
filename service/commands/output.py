"""The results of commands on standard output: out when the call returns, or refused in one line."""

import sys

from models.programs import discard_output
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
        discard_output()
        raise OutputError(f"standard output cannot be written ({error.strerror})") from error
