"""The protocol: bytes of a connection in, bytes out; uvicorn's own for HTTP, with a fast lane, and with an end to its patience.

A whole request to a door of the fast lane is answered within the read that brought its last byte: no task, no scope, no event and no
ASGI message is made for it. All other requests, and those that the fast lane leaves, go uvicorn's way. Knows nothing of what is asked.
"""

import asyncio
from collections.abc import Callable
from time import perf_counter
from typing import Any, Literal

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from service.api import problems
from service.api.problems import ProblemError
from service.server import sockets
from service.server.fast_path import Lanes
from service.server.read_scheduler import ALONE, SLICE, Heap
from service.settings import Settings
from service.types import OnWritten

Stage = Literal["request", "head", "body", "answer", "end"]  # what a connection waits for

HEAD_BYTES = 65_536  # that a request may have beside its body
BYTES_AROUND = 8  # that each byte of a body may have around it, in chunks
HEAD_LINES = 100
UNSENT_BYTES = (
    4_096  # of answers that wait for room in the kernel; beyond them nothing more is read
)
LINGER_SECONDS = 2.0  # in which a client can read why its connection ends, before it does


class Flow(FlowControl):
    """Pauses and resumes reading. It is resumed only when nothing that has come still waits."""

    def __init__(self, transport: asyncio.Transport, may_read: Callable[[], bool]) -> None:
        super().__init__(transport)
        self._may_read = may_read

    def resume_reading(self) -> None:
        """Read on, if it is time."""
        if self.read_paused and self._may_read():
            super().resume_reading()

    def end(self) -> None:
        """Let go of the connection."""
        self._may_read = lambda: False


class Deaf:
    """The parser of a connection that is not listened to any more."""

    def feed_data(self, _: bytes) -> None:
        """Forget what came."""


class Protocol(HttpToolsProtocol):
    """One connection."""

    transport: asyncio.Transport
    flow: Flow

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        lanes = config.loaded_app
        assert isinstance(lanes, Lanes)  # noqa: S101 - the one application that is served by this protocol
        self._lane = lanes.fast
        self._outbox = lanes.outbox
        self._stage: Stage = "request"
        self._since = perf_counter()  # when it began to: of a request, its first byte
        self._turns = lanes.turns
        self._heap = Heap()
        self._came = 0  # bytes of a request after those of its first read, -1 before; and of its body, in the general lane
        self._taken = 0
        self._unsent = (
            0  # bytes of answers that the client had not let in when it was last looked at
        )
        self._reads_since = 0.0  # when they last grew fewer
        self._running: RequestResponseCycle | None = (
            None  # the request that the general lane answers, or did last
        )
        self._last_words: ProblemError | None = (
            None  # to be said after the answers that are under way
        )
        self._head: dict[bytes, bytes] = {}
        self._door: bytes | None = (
            None  # of a request that the fast lane may answer, while its body comes
        )
        self._body = b""
        self._waits = False  # for a body, as one of the requests that are under way
        self._retired = False
        self.url = b""
        self._first: bytes = (
            b""  # what each answer begins with: uvicorn's own header lines, the date
        )
        self._first_of: list[tuple[bytes, bytes]] = []

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # connections are streams
        """Begin."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(UNSENT_BYTES)
        self.flow = Flow(transport, self._may_read)

    def data_received(self, data: bytes) -> None:
        """Take bytes."""
        if self.timeout_keep_alive_task is not None:
            self._unset_keepalive_if_required()
        if len(data) <= ALONE and not self._heap.left:
            self._read(data)
            return
        self._heap.add(data)
        self.flow.pause_reading()
        self._heap.wait(self._turns, self.loop, self._read_on)

    def _read_on(self) -> None:
        """Read the next slice of what came."""
        size = SLICE
        if self._stage == "body":  # bytes of a body cost next to nothing, however many they are
            size = max(size, int(self._head.get(b"content-length", b"0")) - self._body_size())
        data = self._heap.take(size)
        if not self.transport.is_closing():
            self._read(data)
        if not self.transport.is_closing():
            self.flow.resume_reading()

    def _body_size(self) -> int:
        """Return how many bytes have come of the body that is coming."""
        return self._taken if self._door is None else len(self._body)

    def _may_read(self) -> bool:
        """Return whether more may come. If some of what came waits, that is read first."""
        if self.flow.write_paused or self.pipeline:
            return False
        if self._heap.left:
            self._heap.wait(self._turns, self.loop, self._read_on)
        return not self._heap.left

    def _read(self, data: bytes) -> None:
        rest = data
        while rest:
            try:
                self.parser.feed_data(rest)
                rest = b""
            except httptools.HttpParserUpgrade as offer:
                rest = self._offered(rest[offer.args[0] :])
            except httptools.HttpParserError as error:
                rest = b""
                self._refuse(self._problem(error))
        if self._stage in ("head", "body"):
            self._wait_for_more(len(data))

    def _wait_for_more(self, size: int) -> None:
        """Bound how much may come of a request, and how many are waited for."""
        if self._door is not None and not self._waits and not self._heap.left:
            self._waits = self._lane.under_way.enter()
            if not self._waits:  # too many are under way: the general lane says so
                self._leave_fast_lane()
        if self._came < 0:
            self._came = 0
            return
        self._came += size
        if self._came > HEAD_BYTES + (1 + BYTES_AROUND) * self._body_size():
            self._lane.refused("head-too-large")
            self._refuse(problems.head_too_large(HEAD_BYTES, HEAD_LINES))

    def on_message_begin(self) -> None:
        """Begin a request. Its scope is made later, if it needs one."""
        self._stage, self._since = "head", perf_counter()
        self._came = -1
        self.url = b""
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header line. What comes after a body is nobody's: it could say another thing than the head did."""
        if self._stage == "head":
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Choose the lane."""
        if len(self.headers) > HEAD_LINES:
            self._lane.refused("head-too-large")
            raise problems.head_too_large(HEAD_BYTES, HEAD_LINES)
        head = self._head = dict(
            self.headers[::-1]
        )  # of a header that comes twice the first one counts, as in Starlette
        if b"upgrade" in head and self.parser.should_upgrade() and not self._should_upgrade():
            return  # an offer to speak something else, which is declined
        if (
            self.url in self._lane.limits
            and self.parser.get_method() == b"POST"
            and (
                self.cycle is None or self.cycle.response_complete
            )  # else it has to wait for the answer to the request before
            and self.parser.get_http_version() == "1.1"
            and self.parser.should_keep_alive()
            and b"expect" not in head
            and b"upgrade" not in head
            and not self._retired
        ):
            self._door, self._body = self.url, b""
        else:
            self._take_general_lane()
        self._stage = "body"

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body."""
        if self._door is None:
            self._taken += len(body)
            super().on_body(body)
            return
        self._body += body
        if len(self._body) > self._lane.limits[self._door]:
            self._leave_fast_lane()

    def on_message_complete(self) -> None:
        """Answer, if the request is the fast lane's and a good one."""
        if self._door is not None:
            if self._lane.answer(
                self._door, self._head, self._body, self._since, self._first_lines(), self._write
            ):
                self._forget()
                self._stage, self._since = "request", perf_counter()
                return
            self._leave_fast_lane()
        elif self.parser.should_upgrade() and not self._should_upgrade():
            return  # the parser's end of a request whose offer is declined, and which is read again
        super().on_message_complete()
        self._stage = "request" if self._answered() else "answer"

    def on_response_complete(self) -> None:
        """Wait for the next request, when the general lane has answered the last one that has come."""
        if self._last_words is not None and not self.pipeline:
            self._end(self._last_words)
            return
        if self.pipeline and not self.transport.is_closing():
            self._turns.wait(self.loop, self._begin_next)
            return
        super().on_response_complete()
        if self._stage == "answer" and self._answered():
            self._stage, self._since = "request", perf_counter()

    def _begin_next(self) -> None:
        """Answer the next of the requests that came before the answer to the one before them."""
        if self.pipeline and not self.transport.is_closing():
            self._start_asgi_task(*self.pipeline.pop())
        elif self._last_words is not None:
            self._end(self._last_words)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _write(self, answer: bytes, after: OnWritten) -> None:
        self._outbox.put(self.loop, self.transport, answer, after)

    def pause_writing(self) -> None:
        """Read no further: a client that does not read its answers is not read either."""
        super().pause_writing()
        self.flow.pause_reading()

    def resume_writing(self) -> None:
        """Read on: the client reads."""
        super().resume_writing()
        self.flow.resume_reading()

    def eof_received(self) -> bool:  # type: ignore[override] # uvicorn's closes always
        """Say whether to stay: until all answers have gone to a client that has said all it wants to say."""
        self._outbox.flush()
        if self._stage != "answer" or not self.transport.can_write_eof():
            return False
        self.cycle.keep_alive = False
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the request that was under way."""
        if self._door is not None:
            self._lane.gone(self._door, self._head, self._since)
            self._forget()
        if (
            self._running is not None
        ):  # uvicorn tells the last request only, and an earlier one would be answered to nobody
            self._running.disconnected = True
            self._running.message_event.set()
        self.pipeline.clear()
        super().connection_lost(exc)
        self._let_go()

    def _let_go(self) -> None:
        """Let go of all that holds this connection in turn, so that its memory is free at once, not when the collector comes round."""
        self._unset_keepalive_if_required()
        self.flow.end()
        self.parser = Deaf()  # type: ignore[assignment] # all that is still called of it is there
        self.cycle = self._running = None  # type: ignore[assignment] # as before the first request
        self._heap.forget()

    def retire(self) -> None:
        """Answer the next request with the last answer of this connection."""
        self._retired = True
        if self._door is not None:
            self._leave_fast_lane()  # the general one knows how to close

    def shutdown(self) -> None:
        """Close, now or with the answer to the request that is under way."""
        self._retired = True
        if self._stage in ("request", "end"):
            self.transport.close()
        elif not self._answered():
            self.cycle.keep_alive = False

    def check(self, now: float, settings: Settings) -> None:
        """Close the connection if what it waits for has not come in time."""
        unsent = self.transport.get_write_buffer_size()
        if not self._unsent or unsent < self._unsent:
            self._reads_since = now  # however slowly
        self._unsent = unsent
        if unsent and now - self._reads_since > settings.body_timeout:
            sockets.cut_off(self.transport)
            return
        if self.flow.write_paused:
            return
        waited = now - self._since
        match self._stage:
            case "request" if waited > settings.keep_alive and not unsent:
                self.transport.close()
            case "head" if waited > settings.head_timeout:
                self._give_up()
            case "body" if waited > settings.body_timeout:
                self._give_up()
            case "end" if waited > LINGER_SECONDS:
                self.transport.abort()

    def _give_up(self) -> None:
        self._lane.slow(self._stage)
        self._refuse(problems.too_slow(self._stage))

    def _offered(self, rest: bytes) -> bytes:
        """Take or decline the offer to speak something else; returns what to read on with."""
        if self._should_upgrade():
            self._upgrade(rest)
            return b""
        return self._decline(rest)

    def _upgrade(self, rest: bytes) -> None:
        """Speak WebSocket from here on."""
        if not self._answered():
            self._lane.refused("not-http")
            self._refuse(
                problems.not_http(
                    "A WebSocket cannot begin before the requests that came earlier are answered"
                )
            )
            return
        self._outbox.flush()
        self.handle_websocket_upgrade()
        rest += self._heap.take_all()
        self.flow.resume_reading()
        self._let_go()
        if rest:
            protocol = self.transport.get_protocol()
            assert isinstance(protocol, asyncio.Protocol)  # noqa: S101 - the WebSocket's, as of now
            protocol.data_received(rest)

    def _decline(self, rest: bytes) -> bytes:
        """Return what to read on with as if no other protocol had been offered (RFC 9110, section 7.8): the parser stopped at the head."""
        method = self.parser.get_method()
        if method == b"CONNECT":
            self._lane.refused("not-http")
            self._refuse(problems.not_http("This is no proxy"))
            return b""
        head = [b"%b %b HTTP/%b\r\n" % (method, self.url, self.parser.get_http_version().encode())]
        for name, value in self.headers:
            if name not in (b"upgrade", b"connection"):
                head += [name, b": ", value, b"\r\n"]
            elif b"close" in value.lower():
                head += [b"connection: close\r\n"]
        self.parser = httptools.HttpRequestParser(self)
        return b"".join([*head, b"\r\n", rest])

    def _problem(self, error: httptools.HttpParserError) -> ProblemError:
        """Return what to say of bytes that could not be read."""
        cause = error.__context__  # of what a method of this class raised
        if isinstance(cause, ProblemError):
            return cause
        if isinstance(error, httptools.HttpParserCallbackError) and not isinstance(
            cause, (httptools.HttpParserError, UnicodeDecodeError)
        ):
            self.logger.error("a request could not be read", exc_info=cause)
        self._lane.refused("not-http")
        return problems.not_http("This is no HTTP request")

    def _refuse(self, problem: ProblemError) -> None:
        """Answer what came last with a problem, after the answers to what came before it, and end; what else comes is not read."""
        has_lane = self._stage == "body" and self._door is None
        if not has_lane or self.pipeline:
            self._tell(problem)
        self._forget()
        self.parser = Deaf()  # type: ignore[assignment] # all that is still called of it is there
        self._heap.forget()
        self._retired = True
        self._stage = "answer"
        if has_lane and self.pipeline:
            self.pipeline.popleft()  # it has not begun: earlier ones have not been answered
            self._last_words = problem
        elif has_lane:
            said = self.cycle.response_started
            self.cycle.disconnected = True  # nothing is read of its body any more
            self.cycle.waiting_for_100_continue = False
            self.cycle.message_event.set()
            self._end(None if said else problem)
        elif self._answered():
            self._end(problem)
        else:
            self._last_words = problem

    def _tell(self, problem: ProblemError) -> None:
        """Have a request logged that no lane will answer, as far as it has come."""
        method, url, headers = (
            "_OTHER",
            b"",
            [],
        )  # the name that OpenTelemetry has for a method that is not known
        if self._stage in ("head", "body"):
            url, headers = self.url, self.headers
        if self._stage == "body":
            method = self.parser.get_method().decode()
        self._lane.unread(problem.status, method, url, headers, self._since)

    def _end(self, problem: ProblemError | None) -> None:
        """Say why, and end; not at once, or a client that still sends would find its connection reset and nothing to read."""
        if self.transport.is_closing():
            return
        if problem is not None:
            self._write_problem(problem)
        self._stage, self._since = "end", perf_counter()
        self._last_words = None
        self.pipeline.clear()
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()  # TLS has no half of a connection

    def _answered(self) -> bool:
        """Return whether no request waits for the general lane's answer."""
        return self.cycle is None or self.cycle.response_complete

    def _leave_fast_lane(self) -> None:
        """Give the request, as far as it has come, to the general lane."""
        body = self._body
        self._forget()
        self._take_general_lane()
        self._taken = len(body)
        super().on_body(body)

    def _forget(self) -> None:
        self._door, self._body = None, b""
        if self._waits:
            self._waits = False
            self._lane.under_way.leave()

    def _take_general_lane(self) -> None:
        """Do what uvicorn does at the head of a request, from its beginning."""
        url, headers = self.url, self.headers
        if not url.startswith(b"/") and httptools.parse_url(url).path is None:
            raise httptools.HttpParserInvalidURLError(f"no path: {url!r}")
        self._taken = 0
        super().on_message_begin()
        self.url = url
        for name, value in headers:
            super().on_header(name, value)
        super().on_headers_complete()
        if self._retired and not self._answered():
            self.cycle.keep_alive = False

    def _first_lines(self) -> bytes:
        if self._first_of is not self.server_state.default_headers:  # made anew each second
            self._first_of = self.server_state.default_headers
            self._first = b"".join(b"%b: %b\r\n" % line for line in self._first_of)
        return self._first

    def _write_problem(self, problem: ProblemError) -> None:
        self._outbox.flush()  # the answers to what came before
        status = problem.status
        head = f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-length: {len(problem.body)}\r\ncontent-type: {problems.MEDIA_TYPE}\r\n"
        self.transport.write(
            head.encode() + self._first_lines() + b"connection: close\r\n\r\n" + problem.body
        )
