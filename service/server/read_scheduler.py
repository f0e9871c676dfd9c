"""Turns: those who ask much at once, in; their turns, one after the other and a little at a time, out. Knows nothing of what is asked.

What comes alone is answered within the read that brought it. What comes in heaps is read in slices; between two rounds of them the event
loop sees to everybody else, so that no number of greedy connections makes another client wait longer than a round.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from time import perf_counter

ROUND_SECONDS = 0.002  # that turns take in one round of the event loop
ROUND_TURNS = 8  # in one round: what a turn begins on the general lane takes its time after it
ALONE = 2_048  # bytes that may come at once without waiting for a turn: a control loop's request
SLICE = 512  # bytes that are read in a turn: what they ask is in memory until it is answered

NOTHING = memoryview(b"")


class Turns:
    """Who waits for a turn."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()

    def wait(self, loop: asyncio.AbstractEventLoop, turn: Callable[[], None]) -> None:
        """Take a turn when it comes."""
        if not self._waiting:
            loop.call_soon(self._round, loop)
        self._waiting.append(turn)

    def _round(self, loop: asyncio.AbstractEventLoop) -> None:
        until = perf_counter() + ROUND_SECONDS
        for _ in range(min(ROUND_TURNS, len(self._waiting))):
            self._waiting[
                0
            ]()  # it stays until it is over: one that waits anew must not begin a second round
            self._waiting.popleft()
            if perf_counter() > until:
                break
        if self._waiting:
            loop.call_soon(self._round, loop)


class Heap:
    """What came of one connection at once and is read in its turns."""

    def __init__(self) -> None:
        self.left = NOTHING
        self._has_turn = False  # to come

    def add(self, data: bytes) -> None:
        """Put bytes at the end."""
        self.left = memoryview(bytes(self.left) + data if self.left else data)

    def wait(self, turns: Turns, loop: asyncio.AbstractEventLoop, turn: Callable[[], None]) -> None:
        """Wait for a turn, unless it waits already."""
        if not self._has_turn:
            self._has_turn = True
            turns.wait(loop, turn)

    def take(self, size: int = SLICE) -> bytes:
        """Return the next bytes, whose turn has come."""
        self._has_turn = False
        data, self.left = self.left[:size], self.left[size:]
        return bytes(data)

    def take_all(self) -> bytes:
        """Return what is left, out of turn."""
        data = bytes(self.left)
        self.forget()
        return data

    def forget(self) -> None:
        """Let go of what is left: nobody reads it any more."""
        self.left = NOTHING
