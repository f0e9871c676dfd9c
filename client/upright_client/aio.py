"""The client for programs with an event loop: `AsyncPolicyClient`. One background task a connection that connects."""

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import Sequence
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Self

from upright_client.core import Core, Link, Place
from upright_client.decision import Counters, Decision, Fallback, Model, Reason
from upright_client.state import State
from upright_client.wire import Transport, Wire, WireError

if TYPE_CHECKING:
    import ssl

CHUNK = 65_536  # bytes that are looked at at once, so that the deadline is looked at in between
TENDING = 5.0  # seconds after which an idle connection is looked after


class AsyncPolicyClient:
    """`PolicyClient` for asyncio: the same arguments, the same decisions. Used from one event loop, by any number of its tasks.

    An event loop that is kept busy by something else for longer than the deadline delays every task in it, and `act` with them.
    """

    def __init__(
        self,
        address: str | os.PathLike[str],
        *,
        transport: Transport = "http",
        deadline: float = 0.02,
        fallback: Fallback,
        pin_digest: str | None = None,
        key: str | None = None,
        ssl_context: "ssl.SSLContext | None" = None,
        connections: int = 1,
    ) -> None:
        if connections < 1:
            raise ValueError(f"connections is a whole number from 1, not {connections!r}")
        self._core = Core(address, transport, deadline, fallback, pin_digest, key, ssl_context)
        self._ground = _Ground(self._core, transport, connections)
        self._other = self._ground if transport == "http" else _Ground(self._core, "http", 1)

    async def act(self, state: State) -> Decision:
        """Return the decision for one state, within the deadline. Raises `TypeError` or `ValueError` for what is no state."""
        return await self._core.act(self._ground, state)

    async def act_batch(
        self, states: Sequence[State], *, deadline: float | None = None
    ) -> list[Decision]:
        """Return a decision for each state, all by the policy or all by the fallback; `deadline` in seconds replaces the client's own."""
        return await self._core.act_batch(self._other, states, deadline)

    async def model(self, *, timeout: float = 1.0) -> Model:  # noqa: ASYNC109 - the same signature as PolicyClient's
        """Return the bundle that the service serves. Raises `NoAnswerError`."""
        return await self._core.model(self._other, timeout)

    async def ready(self, *, timeout: float = 1.0) -> bool:  # noqa: ASYNC109 - the same signature as PolicyClient's
        """Return whether the service can be reached and says that it is ready, waiting at most `timeout` seconds for its word."""
        return await self._core.ready(self._other, timeout)

    def counters(self) -> Counters:
        """Return what happened so far."""
        return self._core.counters()

    @property
    def trouble(self) -> str:
        """What the last trouble was about, in words for people; empty if there was none."""
        return self._core.trouble

    async def close(self) -> None:
        """End the connections. Calls after it fall back as "closed"."""
        await self._ground.close()
        await self._other.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()


class _Link(Link, asyncio.Protocol):
    """A connection: what the event loop calls when something happens on it."""

    def __init__(self, wire: Wire) -> None:
        super().__init__(wire)
        self.transport: asyncio.Transport | None = None
        self.received = b""
        self.lost = False
        self.waiting: asyncio.Future[None] | None = None
        self.changed = asyncio.Event()  # set for its keeper: it is broken, or the client was closed

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - our own invariant: connections are streams
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        if len(self.received) > CHUNK and self.transport is not None:
            self.transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self.lost = True
        self._wake()

    def write(self, data: bytes) -> None:
        if self.transport is not None and data and not self.lost:
            self.transport.write(data)

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    async def read(self, until: float) -> bytes | None:
        """Return what came, `b""` at the end, `None` when time is up."""
        loop = asyncio.get_running_loop()
        while not self.received and not self.lost:
            remaining = until - monotonic()
            if remaining <= 0:
                return None
            self.waiting = loop.create_future()
            timer = loop.call_later(remaining, self._wake)
            try:
                await self.waiting
            finally:
                timer.cancel()
                self.waiting = None
        return self.take()

    def take(self) -> bytes:
        """Return what was received, a chunk at most."""
        received, self.received = self.received[:CHUNK], self.received[CHUNK:]
        if len(self.received) <= CHUNK and self.transport is not None and not self.lost:
            self.transport.resume_reading()
        return received

    def _wake(self) -> None:
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_result(None)


class _Ground:
    """An event loop's connections and tasks."""

    def __init__(self, core: Core, transport: Transport, connections: int) -> None:
        self._core = core
        self._transport = transport
        self._place = core.place
        self._connections = connections
        self._idle: deque[_Link] = deque()
        self._links: set[_Link] = set()
        self._hopes = connections  # connections that are being made, with no failure yet
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._stopped: asyncio.Event | None = None  # made with the keepers
        self._keepers: list[asyncio.Task[None]] = []
        self._closed = False

    async def take(self, until: float) -> _Link | Reason:
        if not self._keepers and not self._closed:
            # The first call starts them: only now is there surely an event loop to run in.
            self._stopped = asyncio.Event()
            self._keepers = [
                asyncio.create_task(self._core.keep(self, self._transport))
                for _ in range(self._connections)
            ]
        while True:
            if self._closed:
                return "closed"
            if self._idle:
                return self._idle.pop()
            busy = bool(self._links)
            remaining = until - monotonic()
            if not busy and self._hopes == 0:
                return "disconnected"
            if remaining <= 0:
                return "busy" if busy else "disconnected"
            await self._change(remaining)

    def give(self, link: _Link) -> None:
        if link.broken or self._closed:
            self._links.discard(link)
            self._hopes += link.proven
            link.changed.set()
        else:
            self._idle.append(link)
        self._notify()

    async def exchange(self, link: _Link, data: bytes, until: float) -> bytes | None:
        link.write(data)
        return await link.read(until)

    def post(self, link: _Link, data: bytes) -> None:
        link.write(data)

    async def open(self, wire: Wire, until: float) -> _Link:
        link: _Link | None = None
        try:
            async with asyncio.timeout(max(0.01, until - monotonic())):
                link = await _connect(self._place, wire)
                link.write(wire.hello())
                while not wire.opened:
                    received = await link.read(until)
                    if not received:
                        raise OSError("the connection ended before the channel was open")
                    link.write(wire.receive(received))
            return link
        finally:
            if link is not None and not wire.opened:
                link.abort()

    async def lend(self, link: _Link) -> bool:
        if self._closed:
            link.changed.set()
        self._links.add(link)
        self._idle.append(link)
        self._hopes = max(0, self._hopes - 1)
        self._notify()
        try:
            while not link.changed.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(link.changed.wait(), TENDING)
                if not link.changed.is_set():
                    self._tend(link)
        finally:
            link.abort()
        return not self._closed

    async def pause(self, seconds: float) -> bool:
        self._hopes = 0
        self._notify()
        assert self._stopped is not None  # noqa: S101 - our own invariant: only keepers pause
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopped.wait(), seconds)
        return not self._closed

    async def close(self) -> None:
        self._closed = True
        if self._stopped is not None:
            self._stopped.set()
        for link in self._idle:
            self._links.discard(link)
            link.changed.set()
        self._idle.clear()
        self._notify()
        if self._keepers:
            _, slow = await asyncio.wait(self._keepers, timeout=1.0)
            for keeper in slow:
                keeper.cancel()
            await asyncio.gather(*slow, return_exceptions=True)

    def _tend(self, link: _Link) -> None:
        """Read what came while nobody used the connection."""
        if link not in self._idle:
            return
        self._idle.remove(link)
        try:
            link.write(link.wire.receive(link.take()))
            link.broken = link.lost or link.wire.closing
        except WireError:
            link.broken = True
        self.give(link)

    def _notify(self) -> None:
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_result(None)

    async def _change(self, seconds: float) -> None:
        """Wait until a connection changed hands, or for so long."""
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(waiting, seconds)


async def _connect(place: Place, wire: Wire) -> _Link:
    """Connect. Raises `OSError`."""
    loop = asyncio.get_running_loop()
    if place.path is not None:
        return (await loop.create_unix_connection(lambda: _Link(wire), place.path))[1]
    return (await loop.create_connection(lambda: _Link(wire), place.host, place.port))[1]
