"""Ctrl-C and other requests to end, for commands that keep what they have done."""

import signal
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C, SIGTERM or SIGHUP into a request that the command asks for.

    The second ends the program at once. A stopped container or a closed terminal must not lose what
    was learned either.
    """
    received: list[int] = []

    def handle(number: int, _: types.FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    handlers = {
        number: signal.signal(number, handle)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
