"""The client for programs with threads: `PolicyClient`. Sockets that never block, and one background thread a connection that connects."""

import contextlib
import os
import select
import socket
import threading
from collections import deque
from collections.abc import Coroutine, Sequence
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from upright_client.core import Core, Link, Place
from upright_client.decision import Counters, Decision, Fallback, Model, Reason
from upright_client.state import State
from upright_client.wire import Transport, Wire, WireError

if TYPE_CHECKING:
    import ssl

CHUNK = 16_384
TENDING = (
    5.0  # seconds after which an idle connection is looked after: pings answered, its end noticed
)
SELECT_LIMIT = 1_024  # select() knows no file descriptor from here on; below, it is exact to microseconds where poll() is to milliseconds

T = TypeVar("T")


class PolicyClient:
    """Asks an Upright service for actions, and gives one within the deadline whatever the network does.

    `address`: `http://host:port`, `https://host:port`, `unix:/path`, or a path of a Unix socket.
    `transport`: "http" asks by `POST /act`, "stream" over `WS /act/stream`.
    `deadline`: seconds that one `act` may take.
    `fallback`: the action where there is no answer in time: a constant, `LastAction(first)`, or a function of the state.
    `pin_digest`: the bundle that may decide; an answer of any other is a fallback.
    `key`: sent as `Authorization: Bearer …`.
    `ssl_context`: whom `https://` trusts, and this client's certificate if it has one; by default the system's authorities, and none.
    `connections`: how many calls can be under way at once.

    Safe to use from several threads. A connection belongs to one call at a time; calls beyond `connections` wait for their turn within
    their own deadline, and fall back as "busy" if it does not come. A process that forks makes its clients after the fork.
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
        self._other = self._ground if transport == "http" else None
        self._making = threading.Lock()
        self._closed = False

    def act(self, state: State) -> Decision:
        """Return the decision for one state, within the deadline. Raises `TypeError` or `ValueError` for what is no state."""
        return _finish(self._core.act(self._ground, state))

    def act_batch(
        self, states: Sequence[State], *, deadline: float | None = None
    ) -> list[Decision]:
        """Return a decision for each state, all by the policy or all by the fallback; `deadline` in seconds replaces the client's own."""
        return _finish(self._core.act_batch(self._plain(), states, deadline))

    def model(self, *, timeout: float = 1.0) -> Model:
        """Return the bundle that the service serves. Raises `NoAnswerError`."""
        return _finish(self._core.model(self._plain(), timeout))

    def ready(self, *, timeout: float = 1.0) -> bool:
        """Return whether the service can be reached and says that it is ready, waiting at most `timeout` seconds for its word."""
        return _finish(self._core.ready(self._plain(), timeout))

    def counters(self) -> Counters:
        """Return what happened so far."""
        return self._core.counters()

    @property
    def trouble(self) -> str:
        """What the last trouble was about, in words for people; empty if there was none."""
        return self._core.trouble

    def close(self) -> None:
        """End the connections. Calls after it fall back as "closed"."""
        with self._making:
            self._closed = True
            grounds = {self._ground, self._other} - {None}
        for ground in grounds:
            if ground is not None:
                ground.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _plain(self) -> "_Ground":
        """Return the connections that speak HTTP: a stream's client makes them when it first needs them."""
        with self._making:
            if self._other is None:
                self._other = _Ground(self._core, "http", 1)
                if self._closed:
                    self._other.close()
            return self._other


class _Link(Link):
    """A connection and its socket."""

    __slots__ = ("changed", "socket")

    def __init__(self, wire: Wire, connection: socket.socket) -> None:
        super().__init__(wire)
        self.socket = connection
        self.changed = (
            threading.Event()
        )  # set for its keeper: it is broken, or the client was closed


class _Ground:
    """Sockets and threads.

    A connection in `_idle` belongs to whoever pops it. The condition guards the rest, and nobody waits for the network while he holds it.
    """

    def __init__(self, core: Core, transport: Transport, connections: int) -> None:
        self._place = core.place
        self._condition = threading.Condition()
        self._idle: deque[_Link] = deque()
        self._links: set[_Link] = set()
        self._hopes = connections  # connections that are being made, with no failure yet
        self._waiting = 0  # callers who wait for a connection
        self._stopped = False
        self._stop = threading.Event()  # the same for keepers, who wait for it
        self._keepers = [
            threading.Thread(
                target=lambda: _finish(core.keep(self, transport)),
                name=f"upright-client-{number}",
                daemon=True,
            )
            for number in range(connections)
        ]
        for keeper in self._keepers:
            keeper.start()

    async def take(self, until: float) -> _Link | Reason:
        if self._stopped:
            return "closed"
        try:
            return self._idle.pop()
        except IndexError:
            pass
        with self._condition:
            self._waiting += 1
            try:
                while True:
                    if self._stop.is_set():
                        return "closed"
                    if self._idle:
                        with contextlib.suppress(
                            IndexError
                        ):  # who does not have to wait takes it without the condition
                            return self._idle.pop()
                    busy = bool(self._links)
                    remaining = until - monotonic()
                    if not busy and self._hopes == 0:
                        return "disconnected"
                    if remaining <= 0:
                        return "busy" if busy else "disconnected"
                    self._condition.wait(remaining)
            finally:
                self._waiting -= 1

    def give(self, link: _Link) -> None:
        if not link.broken:
            # No lock for the usual case. Who waits has counted himself before he looked here, so one of the two sees the other.
            self._idle.append(link)
            if not self._waiting:
                return
        with self._condition:
            if link.broken:
                self._links.discard(link)
                self._hopes += link.proven
                link.changed.set()
            self._condition.notify()

    async def exchange(self, link: _Link, data: bytes, until: float) -> bytes | None:
        connection = link.socket
        while data:
            try:
                data = data[connection.send(data) :]
            except BlockingIOError:
                pass
            except OSError:
                return b""
            if data and not _wait(connection, until, writing=True):
                link.broken = True  # half a request was sent: the rest must not be lost, so nothing may follow it
                return None
        while _wait(connection, until):
            try:
                return connection.recv(CHUNK)
            except BlockingIOError:
                continue
            except OSError:
                return b""
        return None

    def post(self, link: _Link, data: bytes) -> None:
        try:
            sent = link.socket.send(data)
        except OSError:
            sent = 0
        link.broken = link.broken or sent < len(data)

    async def open(self, wire: Wire, until: float) -> _Link:
        connection = _connect(self._place, until)
        try:
            _greet(connection, wire, until)
        except BaseException:
            connection.close()
            raise
        connection.setblocking(False)
        return _Link(wire, connection)

    async def lend(self, link: _Link) -> bool:
        with self._condition:
            if self._stopped:
                link.changed.set()
            self._links.add(link)
            self._idle.append(link)
            self._hopes = max(0, self._hopes - 1)
            self._condition.notify()
        while not link.changed.wait(TENDING):
            self._tend(link)
        link.socket.close()
        return not self._stop.is_set()

    async def pause(self, seconds: float) -> bool:
        with self._condition:
            self._hopes = 0
            self._condition.notify_all()
        return not self._stop.wait(seconds)

    def close(self) -> None:
        with self._condition:
            self._stopped = True
            self._stop.set()
            for link in self._links:
                link.changed.set()  # its keeper closes it, also under the hands of a call, which then falls back
            self._condition.notify_all()
        for keeper in self._keepers:
            keeper.join(1.0)  # one that waits for a name server ends by itself later

    def _tend(self, link: _Link) -> None:
        """Read what came while nobody used the connection."""
        try:
            self._idle.remove(link)
        except ValueError:  # a call has it
            return
        try:
            received = link.socket.recv(CHUNK)
            back = link.wire.receive(received)
            link.broken = not received or link.wire.closing
            if back:
                self.post(link, back)
        except BlockingIOError:
            pass
        except (OSError, WireError):
            link.broken = True
        self.give(link)


def _finish(coroutine: Coroutine[object, None, T]) -> T:
    """Run a coroutine over a ground that blocks: it never suspends."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError("a coroutine over this ground suspended")


def _wait(connection: socket.socket, until: float, *, writing: bool = False) -> bool:
    """Return whether the socket can be used before `until`; if it is later already, whether it can be used now."""
    descriptor = connection.fileno()
    if descriptor < 0:
        return True  # closed under our hands: using it says so
    remaining = max(0.0, until - monotonic())
    if descriptor < SELECT_LIMIT:
        reading, writable, _ = select.select(
            () if writing else (descriptor,), (descriptor,) if writing else (), (), remaining
        )
        return bool(reading or writable)
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT if writing else select.POLLIN)
    return bool(poll.poll(remaining * 1e3))


def _connect(place: Place, until: float) -> socket.socket:
    """Connect within the time. Raises `OSError`. Only background threads come here: a name server may take its time."""
    if place.path is not None:
        addresses: list[tuple[int, object]] = [(socket.AF_UNIX, place.path)]
    else:
        addresses = [
            (found[0], found[4])
            for found in socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
        ]
    failure: OSError = OSError(f"{place.host} has no address")
    for family, address in addresses:
        connection = socket.socket(family, socket.SOCK_STREAM)
        try:
            connection.settimeout(max(0.01, until - monotonic()))
            connection.connect(address)  # type: ignore[arg-type] # it fits its family
            if family != socket.AF_UNIX:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            connection.close()
            failure = error
        else:
            return connection
    raise failure


def _greet(connection: socket.socket, wire: Wire, until: float) -> None:
    """Open the channel. Raises `OSError` or `WireError`."""
    connection.sendall(wire.hello())
    while not wire.opened:
        connection.settimeout(max(0.01, until - monotonic()))
        received = connection.recv(CHUNK)
        if not received:
            raise OSError("the connection ended before the channel was open")
        connection.sendall(wire.receive(received))
