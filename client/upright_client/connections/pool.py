"""Connections to the service: kept open in the background, lent to one call at a time."""

import contextlib
import random
from collections import deque
from collections.abc import Callable
from time import perf_counter

from upright_client.answers import Document, read_document
from upright_client.connections.address import Address
from upright_client.connections.runtime import STOP_CHECK_INTERVAL, Event, Runtime, Stream, Task
from upright_client.decision import Failure, Reason
from upright_client.errors import AccessDeniedError, ProtocolError, SendTimeoutError
from upright_client.protocols.protocol import ConnectionProtocol, Request
from upright_client.statistics import CallStatistics
from upright_client.text import printable

LATE_ANSWERS_LIMIT = 8  # earlier answers that one call skips; more come only from a fault
CONNECT_TIMEOUT = 0.4  # seconds that connecting may take, and opening the protocol after it
RESPONSE_TIMEOUT = 0.25  # seconds after which a connection whose answer is overdue is renewed
# Seconds between attempts to connect, before they are spread out: down to a half of it.
BACKOFF_FIRST, BACKOFF_LONGEST = 0.02, 0.2
MAINTENANCE_INTERVAL = 5.0  # seconds after which an idle connection is looked after
CLOSE_TIMEOUT = 1.0  # seconds that closing may wait for the background


class Connection:
    """One open connection.

    At most one answer is awaited on it. After a missed deadline the overdue answer is waited for
    before the next request is sent: a service that is slower than its caller would otherwise be
    sent an ever longer queue, and every answer would be late for ever.
    """

    def __init__(
        self,
        stream: Stream,
        protocol: ConnectionProtocol,
        retired: Event,
        response_timeout: float,
        statistics: CallStatistics,
    ) -> None:
        self.retired = retired  # set when nobody uses it any more, so that it can be closed
        self.is_broken = False  # whether no further call may use it
        self.has_answered = False  # whether it has ever brought an answer

        self._stream = stream
        self._protocol = protocol
        self._response_timeout = response_timeout
        self._statistics = statistics
        self._awaiting_response = False
        self._requested_at = 0.0

    async def ask(self, request: Request, until: float) -> Document | Failure:
        """Send a request and return the answer to it, or why there is none `until` then."""
        is_sent = False
        skipped = 0
        try:
            while True:
                data = b""
                if not self._awaiting_response:
                    data = self._protocol.request(request)
                    self._awaiting_response = is_sent = True
                    self._requested_at = perf_counter()

                received = await self._stream.exchange(data, until)
                if received is None:
                    return self._miss_deadline()
                self._take_in(received)

                while self._protocol.replies:
                    reply = self._protocol.replies.popleft()
                    document = read_document(reply, request.seq) if is_sent else None
                    if document is not None:
                        self._awaiting_response = False
                        self.has_answered = True
                        return document
                    # An overdue answer came, or one came twice.
                    self._awaiting_response = is_sent
                    skipped += 1
                    self._skip_late_answer(skipped)

                if self._protocol.is_closing:
                    return Failure("disconnected", "the service ended the connection")
                if perf_counter() >= until:  # bytes come and come, and are never the whole answer
                    return self._miss_deadline()
        except (ProtocolError, OSError) as error:
            self.is_broken = True
            return _failure(error)
        except BaseException:
            self.is_broken = True  # the caller was interrupted: an answer may still be on its way
            raise

    def check_idle(self) -> None:
        """Read what came while no call used the connection."""
        try:
            received = self._stream.receive_now()
            if received is None:
                return
            self._take_in(received)
            while self._protocol.replies:
                self._protocol.replies.popleft()
                if not self._awaiting_response:
                    raise ProtocolError("an answer came that nobody asked for")
                self._awaiting_response = False
                self._statistics.count_late_answer()
        except (OSError, ProtocolError):
            self.is_broken = True

    def close(self) -> None:
        """Close the connection, also while a call uses it: the call then falls back."""
        self._stream.close()

    def _take_in(self, received: bytes) -> None:
        if received:
            response = self._protocol.receive(received)
            if response:
                self._stream.send_now(response)
        else:
            self._protocol.receive_end()
        self.is_broken = self.is_broken or self._protocol.is_closing

    def _skip_late_answer(self, skipped: int) -> None:
        self._statistics.count_late_answer()
        if skipped > LATE_ANSWERS_LIMIT:
            raise ProtocolError("answers come that nobody asked for")

    def _miss_deadline(self) -> Failure:
        if perf_counter() - self._requested_at > self._response_timeout:
            self.is_broken = True
        return Failure("deadline", "no answer came before the deadline")


class ConnectionPool:
    """A fixed number of connections, each made and renewed by a task of its own.

    A connection in `_idle` belongs to whoever pops it. The condition guards the rest, and nobody
    waits for the network while holding it.
    """

    def __init__(
        self,
        runtime: Runtime,
        address: Address,
        make_protocol: Callable[[], ConnectionProtocol],
        connections: int,
        deadline: float,
        statistics: CallStatistics,
    ) -> None:
        self._runtime = runtime
        self._address = address
        self._make_protocol = make_protocol
        self._size = connections
        self._connect_timeout = max(CONNECT_TIMEOUT, 2 * deadline)
        self._response_timeout = max(RESPONSE_TIMEOUT, 2 * deadline)
        self._statistics = statistics

        self._condition = runtime.condition()
        self._stop = runtime.event()
        self._tasks: list[Task] = []
        self._idle: deque[Connection] = deque()
        self._connections: set[Connection] = set()
        self._pending_connects = connections  # being made, and not failed since the last success
        self._waiting_callers = 0
        self._absence = Failure("disconnected", f"no connection to {address} yet")

    def start(self) -> None:
        """Begin to connect, unless that was done before. With an event loop, one must run."""
        with self._condition:
            if self._tasks or self._stop.is_set():
                return
            self._tasks = [
                self._runtime.start(self._maintain, f"upright-client-{number}")
                for number in range(self._size)
            ]

    async def acquire(self, until: float) -> Connection | Failure:
        """Return a connection for one call alone, or why there is none `until` then."""
        if not self._stop.is_set():
            try:
                return self._idle.pop()
            except IndexError:
                self.start()

        with self._condition:
            self._waiting_callers += 1
            try:
                return await self._wait_for_connection(until)
            finally:
                self._waiting_callers -= 1

    def release(self, connection: Connection) -> None:
        """Take back a connection after a call."""
        if not connection.is_broken and not self._stop.is_set():
            # No lock for the usual case. Who waits was counted before looking here, so one of the
            # two sees the other.
            self._idle.append(connection)
            if not self._waiting_callers:
                return
        with self._condition:
            if connection.is_broken or self._stop.is_set():
                self._connections.discard(connection)
                self._pending_connects += connection.has_answered
                connection.retired.set()
            self._condition.notify()

    async def close(self) -> None:
        """Close all connections. Calls after it, and those under way, fail as `closed`."""
        with self._condition:
            self._stop.set()
            for connection in self._connections:
                connection.retired.set()
            self._condition.notify_all()
        until = perf_counter() + CLOSE_TIMEOUT
        for task in self._tasks:
            await task.join(max(0.0, until - perf_counter()))

    async def _wait_for_connection(self, until: float) -> Connection | Failure:
        """Wait with the condition held."""
        while True:
            if self._stop.is_set():
                return Failure("closed", "the client was closed")
            with contextlib.suppress(IndexError):  # others take connections without the condition
                return self._idle.pop()

            is_connected = bool(self._connections)
            if not is_connected and self._pending_connects == 0:
                return self._absence
            remaining = until - perf_counter()
            if remaining <= 0:
                if is_connected:
                    return Failure("pool-timeout", "other calls used every connection")
                return self._absence
            await self._condition.wait(remaining)

    # --- in the background ---

    async def _maintain(self) -> None:
        """Hold one connection open until the pool is closed.

        A pause comes before each attempt that follows a failed one. A connection that brought no
        answer was no better than none.
        """
        failed_attempts, is_reconnect = 0, False
        while not self._stop.is_set():
            try:
                connection = await self._open()
            except Exception as error:  # no fault may end the attempts for good
                self._fail_attempt(error)
                failed_attempts += 1
            else:
                if is_reconnect:
                    self._statistics.count_reconnect()
                is_reconnect = True
                await self._serve(connection)
                failed_attempts = 0 if connection.has_answered else failed_attempts + 1
            if failed_attempts:
                await self._pause(failed_attempts)

    async def _open(self) -> Connection:
        """Connect and open the protocol. Raises `OSError` or `ProtocolError`."""
        stream = await self._runtime.connect(self._address, self._connect_timeout, self._stop)
        try:
            protocol = self._make_protocol()
            await self._shake_hands(stream, protocol)
            return Connection(
                stream,
                protocol,
                self._runtime.event(),
                self._response_timeout,
                self._statistics,
            )
        except BaseException:
            stream.close()
            raise

    async def _shake_hands(self, stream: Stream, protocol: ConnectionProtocol) -> None:
        """Open the protocol within the time for it, however slowly its bytes come."""
        until = perf_counter() + self._connect_timeout
        data = protocol.hello()
        if data:
            stream.send_now(data)
        while not protocol.is_open:
            now = perf_counter()
            if self._stop.is_set():
                raise ConnectionAbortedError("the client was closed")
            if now >= until:
                protocol.receive_end()
                raise TimeoutError(f"not opened within {self._connect_timeout:g} s")

            received = await stream.exchange(b"", min(until, now + STOP_CHECK_INTERVAL))
            if received is None:
                continue
            if not received:
                protocol.receive_end()
                raise ConnectionResetError("the connection ended before it was open")
            data = protocol.receive(received)
            if data:
                stream.send_now(data)

    async def _serve(self, connection: Connection) -> None:
        """Let calls use a connection until it is broken, then close it."""
        with self._condition:
            self._absence = Failure("disconnected", f"the connection to {self._address} was lost")
            self._connections.add(connection)
            self._idle.append(connection)
            self._pending_connects = max(0, self._pending_connects - 1)
            if self._stop.is_set():
                connection.retired.set()
            self._condition.notify()
        try:
            while not await connection.retired.wait(MAINTENANCE_INTERVAL):
                self._check_idle(connection)
        finally:
            connection.close()

    def _check_idle(self, connection: Connection) -> None:
        try:
            self._idle.remove(connection)
        except ValueError:  # a call uses it
            return
        connection.check_idle()
        self.release(connection)

    def _fail_attempt(self, error: Exception) -> None:
        reason: Reason = "denied" if isinstance(error, AccessDeniedError) else "disconnected"
        detail = f"no connection to {self._address}: {describe_error(error)}"
        failure = Failure(reason, detail)
        self._statistics.record_error(failure)
        with self._condition:
            self._absence = failure

    async def _pause(self, failed_attempts: int) -> None:
        """Wait before the next attempt to connect, longer after each failed one.

        Meanwhile callers do not wait for a connection.
        """
        with self._condition:
            self._pending_connects = 0
            self._condition.notify_all()
        # Spread out, so that many clients of one service do not come back all at once.
        spread = random.uniform(0.5, 1)  # noqa: S311 - no secret depends on it
        longest = min(BACKOFF_LONGEST, BACKOFF_FIRST * 2 ** min(failed_attempts - 1, 16))
        await self._stop.wait(longest * spread)


def _failure(error: ProtocolError | OSError) -> Failure:
    """Return what an error on a connection means to the call that uses it."""
    if isinstance(error, ProtocolError):
        return Failure("invalid-response", describe_error(error))
    if isinstance(error, SendTimeoutError):
        return Failure("deadline", describe_error(error))
    return Failure("disconnected", f"the connection was lost: {describe_error(error)}")


def describe_error(error: BaseException) -> str:
    """Return an error in words, never empty."""
    return printable(str(error)) or type(error).__name__
