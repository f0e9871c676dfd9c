"""The client for programs with threads: sockets that never block, and background threads."""

import contextlib
import os
import select
import selectors
import socket
import threading
from collections.abc import Callable, Coroutine, Sequence
from time import perf_counter
from types import TracebackType
from typing import Self, TypeVar

from upright_client.client import BaseClient
from upright_client.connections.address import Address
from upright_client.connections.connecting import Endpoint, connect_first, order_endpoints
from upright_client.connections.runtime import Event, Stream, Task
from upright_client.decision import Decision, Model
from upright_client.errors import SendTimeoutError
from upright_client.state import State

RECEIVE_SIZE = 16_384  # bytes that are received at once
# select() takes no file descriptor from here on, where the system has poll() for them. Below,
# select() is exact to microseconds where poll() is to milliseconds.
SELECT_LIMIT = 1_024

T = TypeVar("T")


class PolicyClient(BaseClient):
    """Asks an Upright service for actions, and gives one within the deadline in any case.

    Safe to use from several threads. A connection belongs to one call at a time; calls beyond
    `connections` wait for their turn within their own deadline, and fall back as "pool-timeout"
    if it does not come. A process that forks makes its clients after the fork.
    """

    _starts_at_once = True

    def act(self, state: State) -> Decision:
        """Return the decision for one state, within the deadline.

        Raises `TypeError` or `ValueError` for what is no state.
        """
        return _finish(self._calls.act(self._pool, state))

    def act_batch(
        self, states: Sequence[State], *, deadline: float | None = None
    ) -> list[Decision]:
        """Return a decision for each state, all by the policy or all by the fallback.

        `deadline`, in seconds, replaces the client's own. Raises as `act` does.
        """
        return _finish(self._calls.act_batch(self._http_pool, states, deadline))

    def model(self, *, timeout: float = 1.0) -> Model:
        """Return the bundle that the service serves, waiting at most `timeout` seconds.

        Raises `NoAnswerError`.
        """
        return _finish(self._calls.model(self._http_pool, timeout))

    def ready(self, *, timeout: float = 1.0) -> bool:
        """Return whether the service says that it is ready, waiting at most `timeout` seconds."""
        return _finish(self._calls.ready(self._http_pool, timeout))

    def close(self) -> None:
        """End the connections. Calls after it fall back as "closed"."""
        _finish(self._close_pools())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _new_runtime(self) -> "ThreadRuntime":
        return ThreadRuntime()


class ThreadRuntime:
    """Threads and sockets. Its coroutines block where they wait, and never suspend."""

    def event(self) -> "_Event":
        """Return a new event."""
        return _Event()

    def condition(self) -> "_Condition":
        """Return a new condition."""
        return _Condition()

    def start(self, work: Callable[[], Coroutine[object, None, None]], name: str) -> Task:
        """Begin work in a thread that does not keep the program from ending."""
        return _Thread(work, name)

    async def connect(self, address: Address, seconds: float, stop: Event) -> Stream:
        """Connect. Resolving a name blocks as long as the system's resolver does."""
        if address.path is not None:
            return SocketStream(_connect_unix(address.path))
        infos = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        attempt = await connect_first(_Dialer(), order_endpoints(infos), seconds, stop)
        attempt.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return SocketStream(attempt.socket)


class SocketStream:
    """A connected socket that never blocks."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected

    async def exchange(self, data: bytes, until: float) -> bytes | None:
        """Send bytes, then return what comes next, as `Stream` says."""
        connected = self._socket
        while data:
            try:
                sent = connected.send(data)
            except BlockingIOError:
                sent = 0
            data = data[sent:]
            if data and not _wait(connected, until, for_writing=True):
                # The rest of the request must not be lost, so nothing may follow what was sent.
                raise SendTimeoutError("the request could not be sent before the deadline")

        while _wait(connected, until):
            try:
                return connected.recv(RECEIVE_SIZE)
            except BlockingIOError:
                continue
        return None

    def send_now(self, data: bytes) -> None:
        """Send a few bytes without waiting. Raises `OSError` where that is not possible."""
        if self._socket.send(data) < len(data):
            raise BlockingIOError("the peer does not read")

    def receive_now(self) -> bytes | None:
        """Return what came, without waiting."""
        try:
            return self._socket.recv(RECEIVE_SIZE)
        except BlockingIOError:
            return None

    def close(self) -> None:
        """Close the socket, and wake the thread that waits for it."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


class _Event(threading.Event):
    async def wait(self, seconds: float) -> bool:  # type: ignore[override] # the runtime's kind
        return super().wait(seconds)


class _Condition(threading.Condition):
    async def wait(self, seconds: float) -> None:  # type: ignore[override] # the runtime's kind
        super().wait(seconds)


class _Thread:
    def __init__(self, work: Callable[[], Coroutine[object, None, None]], name: str) -> None:
        self._thread = threading.Thread(target=lambda: _finish(work()), name=name, daemon=True)
        self._thread.start()

    async def join(self, seconds: float) -> None:
        # One that waits for a name server ends by itself later.
        self._thread.join(seconds)


class _Attempt:
    """A socket that is being connected."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._error: OSError | None = None
        self.is_done = False
        self.socket = socket.socket(endpoint.family, socket.SOCK_STREAM)
        self.socket.setblocking(False)
        try:
            self.socket.connect(endpoint.address)
        except BlockingIOError:
            return  # under way
        except OSError as error:
            self._error = error
        self.is_done = True

    def error(self) -> OSError | None:
        if self._error is None:
            code = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            self._error = OSError(code, os.strerror(code)) if code else None
        return self._error

    def cancel(self) -> None:
        self.socket.close()


class _Dialer:
    def begin(self, endpoint: Endpoint) -> _Attempt:
        return _Attempt(endpoint)

    async def wait(self, attempts: Sequence[_Attempt], seconds: float) -> Sequence[_Attempt]:
        done = [attempt for attempt in attempts if attempt.is_done]
        if done:
            return done
        with selectors.DefaultSelector() as selector:
            for attempt in attempts:
                selector.register(attempt.socket, selectors.EVENT_WRITE, attempt)
            return [key.data for key, _ in selector.select(seconds)]


def _finish(coroutine: Coroutine[object, None, T]) -> T:
    """Run a coroutine over a `ThreadRuntime`: it never suspends."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError("a coroutine over threads suspended")


def _wait(connected: socket.socket, until: float, *, for_writing: bool = False) -> bool:
    """Return whether the socket can be used `until` then; if that is past, whether it can now."""
    descriptor = connected.fileno()
    if descriptor < 0:
        return True  # closed by another thread: using it says so
    remaining = max(0.0, until - perf_counter())
    if descriptor < SELECT_LIMIT or not hasattr(select, "poll"):
        readable, writable, _ = select.select(
            () if for_writing else (descriptor,),
            (descriptor,) if for_writing else (),
            (),
            remaining,
        )
        return bool(readable or writable)

    poll = select.poll()
    poll.register(descriptor, select.POLLOUT if for_writing else select.POLLIN)
    return bool(poll.poll(remaining * 1e3))


def _connect_unix(path: str) -> socket.socket:
    """Connect to a Unix socket, which is connected at once or not at all. Raises `OSError`."""
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connected.setblocking(False)
    try:
        connected.connect(path)
    except BaseException:
        connected.close()
        raise
    return connected
