"""The client for programs with an event loop, with background tasks."""

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from time import perf_counter
from types import TracebackType
from typing import Self, cast

from upright_client.client import BaseClient
from upright_client.connections.address import Address
from upright_client.connections.connecting import Endpoint, connect_first, order_endpoints
from upright_client.connections.runtime import Event, Stream, Task
from upright_client.decision import Decision, Model
from upright_client.state import State

RECEIVE_SIZE = 16_384  # bytes that are looked at at once: the deadline is looked at in between
CANCEL_AFTER = 0.1  # seconds that a task may take to end by itself


class AsyncPolicyClient(BaseClient):
    """`PolicyClient` for asyncio: the same arguments, the same decisions.

    Used from one event loop, by any number of its tasks. An event loop that is kept busy by
    something else for longer than the deadline delays every task in it, and `act` with them.
    """

    async def act(self, state: State) -> Decision:
        """Return the decision for one state, within the deadline.

        Raises `TypeError` or `ValueError` for what is no state.
        """
        return await self._calls.act(self._pool, state)

    async def act_batch(
        self, states: Sequence[State], *, deadline: float | None = None
    ) -> list[Decision]:
        """Return a decision for each state, all by the policy or all by the fallback.

        `deadline`, in seconds, replaces the client's own. Raises as `act` does.
        """
        return await self._calls.act_batch(self._http_pool, states, deadline)

    async def model(self, *, timeout: float = 1.0) -> Model:  # noqa: ASYNC109 - as PolicyClient's
        """Return the bundle that the service serves, waiting at most `timeout` seconds.

        Raises `NoAnswerError`.
        """
        return await self._calls.model(self._http_pool, timeout)

    async def ready(self, *, timeout: float = 1.0) -> bool:  # noqa: ASYNC109 - as PolicyClient's
        """Return whether the service says that it is ready, waiting at most `timeout` seconds."""
        return await self._calls.ready(self._http_pool, timeout)

    async def close(self) -> None:
        """End the connections. Calls after it fall back as "closed"."""
        await self._close_pools()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def _new_runtime(self) -> "LoopRuntime":
        return LoopRuntime()


class LoopRuntime:
    """The event loop that runs when the first call is made."""

    def event(self) -> "_Event":
        """Return a new event."""
        return _Event()

    def condition(self) -> "_Condition":
        """Return a new condition."""
        return _Condition()

    def start(self, work: Callable[[], Coroutine[object, None, None]], name: str) -> Task:
        """Begin work in a task of the running event loop."""
        return _BackgroundTask(work, name)

    async def connect(self, address: Address, seconds: float, stop: Event) -> Stream:
        """Connect, while the event loop's own threads resolve the name."""
        loop = asyncio.get_running_loop()
        if address.path is not None:
            _, unix_stream = await asyncio.wait_for(
                loop.create_unix_connection(TransportStream, address.path), seconds
            )
            return unix_stream

        infos = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        attempt = await connect_first(_Dialer(), order_endpoints(infos), seconds, stop)
        try:
            _, stream = await loop.create_connection(TransportStream, sock=attempt.socket)
        except BaseException:
            attempt.cancel()
            raise
        return stream


class TransportStream(asyncio.Protocol):
    """A connection of the event loop, and what was received on it."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._is_paused = False
        self._has_ended = False
        self._error: Exception | None = None
        self._waiting: asyncio.Future[None] | None = None

    # --- what the event loop calls ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        # Connections are streams. uvloop's transports have the methods, not the class.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Keep what came, and no more than a little of it at a time."""
        self._received += data
        if len(self._received) > RECEIVE_SIZE and self._transport is not None:
            self._transport.pause_reading()
            self._is_paused = True
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the end, which is an orderly one without an error."""
        self._has_ended = True
        self._error = exc
        self._wake()

    # --- what the pool calls ---

    async def exchange(self, data: bytes, until: float) -> bytes | None:
        """Send bytes, then return what comes next, as `Stream` says."""
        if data:
            self.send_now(data)
        while not self._received and not self._has_ended:
            remaining = until - perf_counter()
            if remaining <= 0:
                return None
            await self._wait(remaining)
        return self.receive_now()

    def send_now(self, data: bytes) -> None:
        """Send without waiting. Raises `OSError` once the connection has ended."""
        if self._has_ended or self._transport is None or self._transport.is_closing():
            if self._received:
                return  # its last words are read first
            raise ConnectionResetError(str(self._error or "the connection has ended"))
        self._transport.write(data)

    def receive_now(self) -> bytes | None:
        """Return what came, without waiting."""
        if self._received:
            received = self._received[:RECEIVE_SIZE]
            self._received = self._received[RECEIVE_SIZE:]
            if self._is_paused and len(self._received) <= RECEIVE_SIZE:
                self._resume()
            return received
        if self._error is not None:
            raise ConnectionResetError(str(self._error))
        return b"" if self._has_ended else None

    def close(self) -> None:
        """Close the connection, and wake who waits for it."""
        if self._transport is not None:
            self._transport.abort()

    async def _wait(self, seconds: float) -> None:
        """Wait until something happens on the connection, or for so long."""
        loop = asyncio.get_running_loop()
        self._waiting = loop.create_future()
        timer = loop.call_later(seconds, self._wake)
        try:
            await self._waiting
        finally:
            timer.cancel()
            self._waiting = None

    def _resume(self) -> None:
        self._is_paused = False
        if self._transport is not None and not self._has_ended:
            self._transport.resume_reading()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


class _Event(asyncio.Event):
    async def wait(self, seconds: float) -> bool:  # type: ignore[override] # the runtime's kind
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(super().wait(), seconds)
        return self.is_set()


class _Condition:
    """Nothing else runs between two waits on an event loop, so there is nothing to lock."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass

    async def wait(self, seconds: float) -> None:
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(waiting, seconds)

    def notify(self) -> None:
        # All of them look again: one that was just cancelled must not be the only one who hears.
        self.notify_all()

    def notify_all(self) -> None:
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_result(None)


class _BackgroundTask:
    def __init__(self, work: Callable[[], Coroutine[object, None, None]], name: str) -> None:
        self._task: asyncio.Task[None] = asyncio.create_task(work(), name=name)

    async def join(self, seconds: float) -> None:
        await asyncio.wait([self._task], timeout=min(seconds, CANCEL_AFTER))
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


class _Attempt:
    """A socket that a task connects."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.socket = socket.socket(endpoint.family, socket.SOCK_STREAM)
        self.socket.setblocking(False)
        loop = asyncio.get_running_loop()
        self.task = loop.create_task(loop.sock_connect(self.socket, endpoint.address))

    def error(self) -> OSError | None:
        error = self.task.exception()
        if error is None or isinstance(error, OSError):
            return error
        raise error

    def cancel(self) -> None:
        self.task.cancel()
        # The loop watches the socket until the task has ended: only then may it be closed.
        self.task.add_done_callback(lambda _: self.socket.close())


class _Dialer:
    def begin(self, endpoint: Endpoint) -> _Attempt:
        return _Attempt(endpoint)

    async def wait(self, attempts: Sequence[_Attempt], seconds: float) -> Sequence[_Attempt]:
        await asyncio.wait(
            [attempt.task for attempt in attempts],
            timeout=seconds,
            return_when=asyncio.FIRST_COMPLETED,
        )
        return [attempt for attempt in attempts if attempt.task.done()]
