"""HTTP/1.1 on one connection: uvicorn's own protocol, with a fast path, limits and time-outs.

A whole request to an endpoint of the fast path is answered within the read that brought its last
byte: no task, no scope, no event and no ASGI message is made for it. All other requests, and those
that the fast path leaves, go uvicorn's way: the ASGI path.
"""

import asyncio
from time import perf_counter

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from service.api import problems
from service.api.problems import ProblemError
from service.server.http.closing import ClosableConnection
from service.server.http.host import find_host, with_host_of_target
from service.server.http.request import (
    HEADER_BYTES_LIMIT,
    HEADER_LINES_LIMIT,
    IDLE,
    READING_BODY,
    READING_HEADERS,
    Phase,
)
from service.server.http.upgrade import without_offer

ANSWERED_BODY_LIMIT = 65_536  # bytes that are read of a body whose request was answered already


class HttpProtocol(ClosableConnection):
    """The requests of a connection, and the path that each of them takes."""

    # Parsing

    def _read(self, data: bytes) -> None:
        """Parse bytes, and act on the requests in them."""
        rest = data
        while rest:
            try:
                self.parser.feed_data(rest)
                rest = b""
            except httptools.HttpParserUpgrade as offer:
                rest = self._take_or_decline_offer(rest[offer.args[0] :])
            except httptools.HttpParserError as error:
                rest = b""
                self._refuse(self._problem_of(error))
        if self._phase is READING_HEADERS or self._phase is READING_BODY:
            self._bound_incomplete_request(len(data))

    def _bound_incomplete_request(self, count: int) -> None:
        """Bound how large a request may be, and how many may be incomplete at a time."""
        fast_request = self._fast_request
        if fast_request.endpoint is not None and not self._unread and not fast_request.try_count():
            self._move_to_asgi_path()  # which says that there are too many
        self._size.add(count)
        if self._size.exceeds_limit(self._body_size()):
            self._fast_path.count_refused("headers-too-large")
            self._refuse(problems.headers_too_large(HEADER_BYTES_LIMIT, HEADER_LINES_LIMIT))
        elif self._size.body_size > ANSWERED_BODY_LIMIT and self._is_answered_early():
            self._ignore_the_rest()

    def _problem_of(self, error: httptools.HttpParserError) -> ProblemError:
        """Return what to answer to bytes that could not be read."""
        cause = error.__context__  # what a callback of this class raised
        if isinstance(cause, ProblemError):
            return cause
        if isinstance(error, httptools.HttpParserCallbackError) and not isinstance(
            cause, (httptools.HttpParserError, UnicodeDecodeError)
        ):
            self.logger.error("a request could not be read", exc_info=cause)
        self._fast_path.count_refused("not-http")
        return problems.not_http("This is no HTTP request")

    # The parser's callbacks

    def on_message_begin(self) -> None:
        """Begin a request. Its ASGI scope is made later, if it needs one."""
        self._phase = READING_HEADERS
        self._phase_since = perf_counter()
        self._size.begin()
        self.url = b""
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header line. Trailers are ignored: they could contradict the headers."""
        if self._phase is READING_HEADERS:
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Choose the path of the request."""
        if len(self.headers) > HEADER_LINES_LIMIT:
            self._fast_path.count_refused("headers-too-large")
            raise problems.headers_too_large(HEADER_BYTES_LIMIT, HEADER_LINES_LIMIT)
        # Of a header that comes twice the first one counts, as in Starlette.
        headers = self._headers = dict(self.headers[::-1])
        if len(headers) != len(self.headers) or headers.get(b"host") != self._host:
            self._check_host()
        if b"upgrade" in headers and self.parser.should_upgrade() and not self._should_upgrade():
            return  # the offer is declined: the request is read again, without it

        endpoint = self._fast_path.find(self.url)
        if (
            endpoint is not None
            and self._suits_fast_path(headers)
            and self._fast_path.allows(endpoint, headers)
        ):
            self._fast_request.begin(endpoint)
        else:
            self._begin_asgi_request()
        self._phase = READING_BODY

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body."""
        if self._fast_request.endpoint is None:
            self._size.add_body(len(body))
            super().on_body(body)
        elif not self._fast_request.append(body):
            self._move_to_asgi_path()  # which says that it is too large

    def on_message_complete(self) -> None:
        """Answer the request on the fast path if it can be, else let the ASGI path answer it."""
        fast_request = self._fast_request
        endpoint = fast_request.endpoint
        if endpoint is not None:
            if self._fast_path.answer(
                endpoint,
                self._headers,
                fast_request.body,
                self._phase_since,
                self._default_headers.lines(),
                self._write,
            ):
                fast_request.clear()
                self._phase = IDLE
                self._phase_since = perf_counter()
                return
            self._move_to_asgi_path()
        elif self.parser.should_upgrade() and not self._should_upgrade():
            return  # the end of a request whose offer is declined
        super().on_message_complete()
        self._phase = IDLE if self._is_answered() else Phase.RESPONDING

    # The two paths

    def _suits_fast_path(self, headers: dict[bytes, bytes]) -> bool:
        """Return whether the fast path may answer a request with these headers."""
        return (
            self.parser.get_method() == b"POST"
            # Else its answer has to wait for an earlier one. Not `_is_answered`, which is a call.
            and (self.cycle is None or self.cycle.response_complete)
            and self.parser.get_http_version() == "1.1"
            and self.parser.should_keep_alive()
            and b"expect" not in headers
            and b"upgrade" not in headers
            and b"content-encoding" not in headers
            and not self._closes_after_response
            and self._is_host_allowed
        )

    def _check_host(self) -> None:
        """Refuse a request without one valid Host; the ASGI path refuses one that is not allowed.

        Another request of the connection with the same Host is not checked again.
        """
        try:
            self._host = find_host(self.headers, self.parser.get_http_version())
        except ProblemError:
            self._fast_path.count_refused("not-http")
            raise
        is_unix_socket = self.server is not None and self.server[1] is None
        self._is_host_allowed = is_unix_socket or (
            self._host is not None and self._allowed_hosts.allows(self._host)
        )

    def _begin_asgi_request(self) -> None:
        """Do what uvicorn does up to the end of a request's headers."""
        target, headers = self.url, self.headers
        if not target.startswith(b"/"):
            headers = with_host_of_target(target, headers)
        self._size.begin_body()
        super().on_message_begin()
        self.url = target
        for name, value in headers:
            super().on_header(name, value)
        super().on_headers_complete()
        if self._closes_after_response and not self._is_answered():
            self.cycle.keep_alive = False

    def _move_to_asgi_path(self) -> None:
        """Give a request of the fast path, as far as it has come, to the ASGI path."""
        body = bytes(self._fast_request.body)
        self._fast_request.clear()
        self._begin_asgi_request()
        self._size.begin_body(len(body))
        super().on_body(body)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """Go on after an answer of the ASGI path: with the next request that waits, or idle."""
        if self._deferred_problem is not None and not self.pipeline:
            self._close_with(self._deferred_problem)
        elif b"expect" in self._headers and self._is_answered_early():
            self._ignore_the_rest()  # which its client was never told to send
        elif self.pipeline and not self.transport.is_closing():
            self._read_scheduler.schedule(self.loop, self._start_pipelined_request)
        else:
            super().on_response_complete()
            if self._phase is Phase.RESPONDING and self._is_answered():
                self._phase = IDLE
                self._phase_since = perf_counter()

    def _is_answered_early(self) -> bool:
        """Return whether the request whose body still comes was answered, as for want of a key."""
        return (
            self._phase is READING_BODY
            and self._fast_request.endpoint is None
            and self._is_answered()
        )

    def _start_pipelined_request(self) -> None:
        """Answer the next of the requests that came before the answer to an earlier one."""
        if self.pipeline and not self.transport.is_closing():
            self._start_asgi_task(*self.pipeline.pop())
        elif self._deferred_problem is not None:
            self._close_with(self._deferred_problem)

    # Other protocols

    def _take_or_decline_offer(self, rest: bytes) -> bytes:
        """Take or decline the offer to speak another protocol; return the bytes to read on with."""
        if self._should_upgrade():
            self._upgrade_to_websocket(rest)
            return b""
        method = self.parser.get_method()
        if method == b"CONNECT":
            self._fast_path.count_refused("not-http")
            self._refuse(problems.not_http("This is no proxy"))
            return b""
        version = self.parser.get_http_version()
        self.parser = httptools.HttpRequestParser(self)
        return without_offer(method, self.url, version, self.headers) + rest

    def _upgrade_to_websocket(self, rest: bytes) -> None:
        """Hand the connection to the WebSocket protocol, with what came after the handshake."""
        if not self._is_answered():
            self._fast_path.count_refused("not-http")
            self._refuse(
                problems.not_http(
                    "A WebSocket cannot begin before the requests that came earlier are answered"
                )
            )
            return
        self._write_batcher.flush()
        self.handle_websocket_upgrade()
        self._metrics.add("upright_connections", "http", -1)
        rest += self._unread.take_all()
        self.flow.resume_reading()
        self._release_references()
        if rest:
            protocol = self.transport.get_protocol()
            assert isinstance(protocol, asyncio.Protocol)  # noqa: S101 - the WebSocket's, as of now
            protocol.data_received(rest)
