"""Answers of one round of the event loop, written together.

A write wakes a client that sleeps, which costs the server more than the rest of the write. Answers
that leave one after the other wake it once, and the code that writes them stays in the processor's
caches. An answer that comes alone leaves in the same round of the loop. Counting, logging and
recording come after all of them, and delay none.
"""

import asyncio

from service.types import OnWritten


class WriteBatcher:
    """The answers of one round of an event loop."""

    def __init__(self) -> None:
        self._batch: list[tuple[asyncio.Transport, bytes, OnWritten]] = []

    def put(
        self,
        loop: asyncio.AbstractEventLoop,
        transport: asyncio.Transport,
        answer: bytes,
        on_written: OnWritten,
    ) -> None:
        """Add an answer. Those of one transport leave in their order."""
        if not self._batch:
            loop.call_soon(self.flush)
        self._batch.append((transport, answer, on_written))

    def flush(self) -> None:
        """Write all answers, then tell of each that it was written."""
        batch, self._batch = self._batch, []
        for transport, answer, _ in batch:
            if not transport.is_closing():
                transport.write(answer)
        for _, _, on_written in batch:
            on_written()
