"""What the programs of training and service have in common where they meet the system."""

import codecs
import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

INTERRUPTED = 130  # the shell's exit code for Ctrl-C

# What the programs print beyond ASCII, for a terminal that has less.
_PLAIN_LETTERS = {"…": "...", "±": "+-", "·": "*", "°": " degrees", "→": "->", "≥": ">=", "≤": "<="}
_PLAIN_GREEK = {
    "α": "alpha",
    "γ": "gamma",
    "δ": "delta",
    "ε": "epsilon",
    "θ": "theta",
    "ω": "omega",
}
_PLAIN = {**_PLAIN_LETTERS, **_PLAIN_GREEK, "−": "-", "–": "-", "•": "*", "²": "^2", "ⁿ": "^n"}
_BOX_LINES = {"─": "-", "━": "=", "│": "|", "┃": "|"}  # every other character of a box is a corner
_BOXES = range(0x2500, 0x2580)


def explain_missing_library(error: ModuleNotFoundError, remedy: str) -> str:
    """Return a line that says which library is not installed, and what to do.

    Raises the error again where a module of this project is missing, which no installation mends.
    """
    library = (error.name or "").partition(".")[0]
    if library in ("models", "service", "training", ""):
        raise error
    return f"{library} is not installed for {sys.executable}: in a checkout, {remedy}"


@contextmanager
def silent_interrupts() -> Iterator[None]:
    """Let Ctrl-C end the process at once and without a word: it has not begun with anything.

    Python would raise `KeyboardInterrupt` in the midst of an import.
    """
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:  # else a parent has it ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def allow_any_terminal() -> None:
    """Let standard output and errors be written where the terminal's encoding has not all letters.

    Those that it lacks are written in ASCII.
    """
    codecs.register_error("upright.plain", _plain)
    for stream in (sys.stdout, sys.stderr):
        # None: it is closed. Others than Python's own may stand there in tests.
        if isinstance(stream, io.TextIOWrapper) and codecs.lookup(stream.encoding).name != "utf-8":
            stream.reconfigure(errors="upright.plain")


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Return what is written in place of letters that an encoding lacks, as codecs ask for it."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    return "".join(map(_plain_letter, letters)), error.end


def _plain_letter(letter: str) -> str:
    if letter in _PLAIN:
        return _PLAIN[letter]
    if ord(letter) in _BOXES:
        return _BOX_LINES.get(letter, "+")
    return "?"


def discard_output() -> None:
    """Let what is written to standard output from now on, or is held by Python, go nowhere.

    Python writes what it still holds when it ends, and would fail again, in its own words.
    """
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
