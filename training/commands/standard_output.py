"""Standard output where it may be full or closed."""

import errno
import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from models.programs import discard_output

LOST = 3  # exit code: all was done, but standard output took no text


class StandardOutput(io.TextIOBase):
    """Standard output that ends no command, whose work would be lost with it.

    Where it takes no text, a warning says so once. Nothing is said where its reader has left, as
    `head` does.
    """

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self.is_lost = False
        # As it is now: rich's live line puts something in its place, which writes here.
        self._stream: TextIO | None = sys.stdout
        if self._stream is None:  # so Python starts where the descriptor is closed
            self._lose("is closed")

    def write(self, text: str) -> int:
        """Write a text, or lose it."""
        with self._losing():
            if self._stream is not None:
                self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Hand over what was written, or lose it."""
        with self._losing():
            if self._stream is not None:
                self._stream.flush()

    def isatty(self) -> bool:
        """Return whether somebody watches."""
        return self._stream is not None and self._stream.isatty()

    def fileno(self) -> int:
        """Return the descriptor, by which rich finds the width of a terminal."""
        if self._stream is None:
            raise io.UnsupportedOperation("standard output is closed")
        return self._stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]  # typeshed has a plain attribute
        """The encoding, by which rich chooses the characters of tables."""
        return "utf-8" if self._stream is None else self._stream.encoding

    @contextmanager
    def _losing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            discard_output()
            if error.errno != errno.EPIPE:
                self._lose(f"cannot be written ({error.strerror})")

    def _lose(self, why: str) -> None:
        self.is_lost = True
        self._warn(f"standard output {why}; what would stand there is lost, and nothing else")
