"""What the shared code needs from threads and sockets, or from an event loop.

The pool and the calls are written once, as coroutines over a `Runtime`. On an event loop they
suspend where they wait. With threads they block there and never suspend, so that one step runs
such a coroutine to its end.
"""

from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Protocol

from upright_client.connections.address import Address

STOP_CHECK_INTERVAL = 0.05  # seconds after which a wait in the background looks whether to stop


class Stream(Protocol):
    """A connection's bytes. One call at a time uses it."""

    async def exchange(self, data: bytes, until: float) -> bytes | None:
        """Send bytes, then return what comes next.

        Returns `b""` where the peer has sent its last byte, `None` where nothing came `until`
        then. Raises `OSError` where the connection was lost, or not all could be sent.
        """
        ...

    def send_now(self, data: bytes) -> None:
        """Send a few bytes without waiting. Raises `OSError` where that is not possible."""
        ...

    def receive_now(self) -> bytes | None:
        """Return what came, without waiting, as `exchange` does. Raises `OSError`."""
        ...

    def close(self) -> None:
        """Close the connection at once."""
        ...


class Event(Protocol):
    """Set once, and seen by everybody who waits for it."""

    def is_set(self) -> bool:
        """Return whether it was set."""
        ...

    def set(self) -> None:
        """Set it."""
        ...

    async def wait(self, seconds: float) -> bool:
        """Wait until it is set, or for so long. Returns whether it is set."""
        ...


class Condition(Protocol):
    """Guards what callers share, and lets them wait for a change of it."""

    def __enter__(self) -> object: ...

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> object: ...

    async def wait(self, seconds: float) -> None:
        """Let others in until one of them notifies, or for so long."""
        ...

    def notify(self) -> None:
        """Wake one who waits."""
        ...

    def notify_all(self) -> None:
        """Wake all who wait."""
        ...


class Task(Protocol):
    """Work in the background."""

    async def join(self, seconds: float) -> None:
        """Wait for its end, but no longer than this."""
        ...


class Runtime(Protocol):
    """Threads and sockets, or an event loop."""

    def event(self) -> Event:
        """Return a new event."""
        ...

    def condition(self) -> Condition:
        """Return a new condition."""
        ...

    def start(self, work: Callable[[], Coroutine[object, None, None]], name: str) -> Task:
        """Begin work in the background."""
        ...

    async def connect(self, address: Address, seconds: float, stop: Event) -> Stream:
        """Connect within a time that begins once the name is resolved. Raises `OSError`."""
        ...
