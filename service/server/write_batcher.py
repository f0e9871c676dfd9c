"""The outbox: answers in, written together once the event loop has read all that had come; then what follows from them is done.

A write wakes a client that sleeps, which costs the server more than the rest of the write. Answers that leave one after the other wake it
once, and their code runs while it is in the processor's caches. An answer that comes alone leaves in the same round of the loop. Counting,
logging and recording come after all of them, and hold up none.
"""

import asyncio

from service.types import OnWritten


class Outbox:
    """The answers of one round of an event loop."""

    def __init__(self) -> None:
        self._waiting: list[tuple[asyncio.Transport, bytes, OnWritten]] = []

    def put(
        self,
        loop: asyncio.AbstractEventLoop,
        transport: asyncio.Transport,
        answer: bytes,
        after: OnWritten,
    ) -> None:
        """Take an answer. Those of one transport leave in their order."""
        if not self._waiting:
            loop.call_soon(self.flush)
        self._waiting.append((transport, answer, after))

    def flush(self) -> None:
        """Write all that waits."""
        waiting, self._waiting = self._waiting, []
        for transport, answer, _ in waiting:
            if not transport.is_closing():
                transport.write(answer)
        for _, _, after in waiting:
            after()
