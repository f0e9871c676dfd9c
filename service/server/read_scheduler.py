"""Fair reading: connections that send much at once are read in small slices, in rotation.

What comes alone is answered within the read that brought it. Between two rounds of slices the event
loop serves everybody else, so no number of busy connections makes another client wait for longer
than a round.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from time import perf_counter

ROUND_SECONDS_LIMIT = 0.002  # that slices may take in one round of the event loop
# A request that a slice begins on the ASGI path takes its time after the slice.
ROUND_SLICES_LIMIT = 8
INLINE_READ_LIMIT = 2_048  # bytes that are read at once: the request of a control loop
READ_SLICE = 512  # bytes read at a time: what they ask for stays in memory until it is answered

_EMPTY = memoryview(b"")


class ReadScheduler:
    """The connections that wait to read their next slice, in their order."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()

    def schedule(self, loop: asyncio.AbstractEventLoop, read: Callable[[], None]) -> None:
        """Call `read` after those that wait already."""
        if not self._waiting:
            loop.call_soon(self._run_round, loop)
        self._waiting.append(read)

    def _run_round(self, loop: asyncio.AbstractEventLoop) -> None:
        end = perf_counter() + ROUND_SECONDS_LIMIT
        for _ in range(min(ROUND_SLICES_LIMIT, len(self._waiting))):
            # It stays in the queue while it runs: if it schedules again, that must not begin a
            # second round.
            self._waiting[0]()
            self._waiting.popleft()
            if perf_counter() > end:
                break
        if self._waiting:
            loop.call_soon(self._run_round, loop)


class ReadBuffer:
    """Bytes of one connection that have come and were not read yet."""

    def __init__(self, scheduler: ReadScheduler, loop: asyncio.AbstractEventLoop) -> None:
        self._scheduler = scheduler
        self._loop = loop
        self._bytes = _EMPTY
        self._is_scheduled = False

    def __bool__(self) -> bool:
        """Return whether bytes wait."""
        return bool(self._bytes)

    def can_skip(self, data: bytes) -> bool:
        """Return whether `data` may be read at once: it is short, and nothing waits before it."""
        return len(data) <= INLINE_READ_LIMIT and not self._bytes

    def append(self, data: bytes) -> None:
        """Put bytes at the end."""
        self._bytes = memoryview(bytes(self._bytes) + data if self._bytes else data)

    def schedule(self, read: Callable[[], None]) -> None:
        """Have `read` called for the next slice, unless that is scheduled already.

        The connection's method is not kept: connection and buffer would hold each other in memory.
        """
        if not self._is_scheduled:
            self._is_scheduled = True
            self._scheduler.schedule(self._loop, read)

    def take(self, size: int = READ_SLICE) -> bytes:
        """Return and remove the next slice."""
        self._is_scheduled = False
        data, self._bytes = self._bytes[:size], self._bytes[size:]
        return bytes(data)

    def take_all(self) -> bytes:
        """Return and remove everything at once."""
        data = bytes(self._bytes)
        self.clear()
        return data

    def clear(self) -> None:
        """Drop the bytes: nobody reads them any more."""
        self._bytes = _EMPTY
