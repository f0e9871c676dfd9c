"""Pausing and resuming what a connection reads, and no longer reading it."""

import asyncio
from collections.abc import Callable

from uvicorn.protocols.http.flow_control import FlowControl


class ReadFlow(FlowControl):
    """uvicorn's flow control, resuming only when nothing that has come waits to be read."""

    def __init__(self, transport: asyncio.Transport, may_resume: Callable[[], bool]) -> None:
        super().__init__(transport)
        self._may_resume = may_resume

    def resume_reading(self) -> None:
        """Read on, if the connection may."""
        if self.read_paused and self._may_resume():
            super().resume_reading()

    def detach(self) -> None:
        """Drop the reference to the connection, which is over."""
        self._may_resume = lambda: False


class IgnoringParser:
    """The parser of a connection whose bytes are not read any more."""

    def feed_data(self, _: bytes) -> None:
        """Ignore the bytes."""
