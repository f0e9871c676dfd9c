"""The protocol: bytes of a connection in, bytes out; uvicorn's own for HTTP, with a fast lane, and with an end to its patience.

A whole request to a door of the fast lane is answered within the read that brought its last byte: no task, no scope, no event and no
ASGI message is made for it. All other requests, and those that the fast lane leaves, go uvicorn's way. Knows nothing of what is asked.
"""

import asyncio
from time import perf_counter
from typing import Any, Literal

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from service import problems
from service.lanes import Lanes
from service.problems import ProblemError
from service.settings import Settings

Stage = Literal["request", "head", "body", "answer"]  # what a connection waits for


class Protocol(HttpToolsProtocol):
    """One connection."""

    transport: asyncio.Transport

    def __init__(
        self, config: Config, server_state: ServerState, app_state: dict[str, Any], _loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        lanes = config.loaded_app
        assert isinstance(lanes, Lanes)  # noqa: S101 - the one application that is served by this protocol
        self._lane = lanes.fast
        self._outbox = lanes.outbox
        self._stage: Stage = "request"
        self._since = perf_counter()  # when it began to: of a request, its first byte
        self._head: dict[bytes, bytes] = {}
        self._door: bytes | None = None  # of a request that the fast lane may answer, while its body comes
        self._body = b""
        self._waits = False  # for a body, as one of the requests that are under way
        self._retired = False
        self._first: bytes = b""  # what each answer begins with: uvicorn's own header lines, the date
        self._first_of: list[tuple[bytes, bytes]] = []

    def data_received(self, data: bytes) -> None:
        """Take bytes."""
        if self.timeout_keep_alive_task is not None:
            self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            if self._should_upgrade():
                self.handle_websocket_upgrade()
            else:
                self._decline(data[offer.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("This is no HTTP request")
        if self._door is not None and not self._waits:
            self._waits = self._lane.under_way.enter()
            if not self._waits:  # too many are under way: the general lane says so
                self._leave_fast_lane()

    def on_message_begin(self) -> None:
        """Begin a request. Its scope is made later, if it needs one."""
        self._stage, self._since = "head", perf_counter()
        self.url = b""
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header line."""
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Choose the lane."""
        self._stage = "body"
        head = self._head = dict(self.headers[::-1])  # of a header that comes twice the first one counts, as in Starlette
        if b"upgrade" in head and self.parser.should_upgrade() and not self._should_upgrade():
            return  # an offer to speak something else, which is declined
        if (
            self.url in self._lane.limits
            and self.parser.get_method() == b"POST"
            and (self.cycle is None or self.cycle.response_complete)  # else it has to wait for the answer to the request before
            and self.parser.get_http_version() == "1.1"
            and self.parser.should_keep_alive()
            and b"expect" not in head
            and b"upgrade" not in head
            and not self._retired
        ):
            self._door, self._body = self.url, b""
        else:
            self._take_general_lane()

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body."""
        if self._door is None:
            super().on_body(body)
            return
        self._body += body
        if len(self._body) > self._lane.limits[self._door]:
            self._leave_fast_lane()

    def on_message_complete(self) -> None:
        """Answer, if the request is the fast lane's and a good one."""
        if self._door is not None:
            done = self._lane.answer(self._door, self._head, self._body, self._since, self._first_lines(), self._write)
            if done is not None:
                self._forget()
                self._stage, self._since = "request", done
                return
            self._leave_fast_lane()
        elif self.parser.should_upgrade() and not self._should_upgrade():
            return  # the parser's end of a request whose offer is declined, and which is read again
        super().on_message_complete()
        self._stage = "request" if self._answered() else "answer"

    def on_response_complete(self) -> None:
        """Wait for the next request, when the general lane has answered the last one that has come."""
        super().on_response_complete()
        if self._stage == "answer" and self._answered():
            self._stage, self._since = "request", perf_counter()

    def _write(self, answer: bytes) -> None:
        self._outbox.put(self.loop, self.transport, answer)

    def pause_writing(self) -> None:
        """Read no further: a client that does not read its answers is not read either."""
        super().pause_writing()
        self.flow.pause_reading()

    def resume_writing(self) -> None:
        """Read on: the client reads."""
        super().resume_writing()
        self.flow.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the request that was under way."""
        if self._door is not None:
            self._lane.gone(self._door, self._since)
            self._forget()
        super().connection_lost(exc)

    def retire(self) -> None:
        """Answer the next request with the last answer of this connection."""
        self._retired = True
        if self._door is not None:
            self._leave_fast_lane()  # the general one knows how to close

    def shutdown(self) -> None:
        """Close, now or with the answer to the request that is under way."""
        self._retired = True
        if self._stage == "request":
            self.transport.close()
        elif not self._answered():
            self.cycle.keep_alive = False

    def check(self, now: float, settings: Settings) -> None:
        """Close the connection if what it waits for has not come in time."""
        waited = now - self._since
        match self._stage:
            case "request" if waited > settings.keep_alive:
                if self.transport.get_write_buffer_size():
                    self.transport.abort()  # it has not read its last answer in all this time
                else:
                    self.transport.close()
            case "head" if waited > settings.head_timeout:
                self._give_up(self._answered())
            case "body" if waited > settings.body_timeout:
                self._give_up(self._answered() or not (self.cycle.response_started or self.pipeline))

    def _give_up(self, is_heard: bool) -> None:
        """Close, with a problem if it cannot be taken for another request's answer."""
        self._lane.slow(self._stage)
        if is_heard:
            self._write_problem(problems.too_slow(self._stage))
        self.transport.close()

    def _decline(self, rest: bytes) -> None:
        """Read on as if no other protocol had been offered (RFC 9110, section 7.8). The parser itself would stop at the head."""
        method = self.parser.get_method()
        if method == b"CONNECT":
            self.send_400_response("This is no proxy")
            return
        head = [method, b" ", self.url, b" HTTP/1.1\r\n"]
        for name, value in self.headers:
            if name not in (b"upgrade", b"connection"):
                head += [name, b": ", value, b"\r\n"]
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"".join([*head, b"\r\n", rest]))

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, and close."""
        self._write_problem(problems.not_http(msg))
        self.transport.close()

    def _answered(self) -> bool:
        """Return whether no request waits for the general lane's answer."""
        return self.cycle is None or self.cycle.response_complete

    def _leave_fast_lane(self) -> None:
        """Give the request, as far as it has come, to the general lane."""
        body = self._body
        self._forget()
        self._take_general_lane()
        super().on_body(body)

    def _forget(self) -> None:
        self._door, self._body = None, b""
        if self._waits:
            self._waits = False
            self._lane.under_way.leave()

    def _take_general_lane(self) -> None:
        """Do what uvicorn does at the head of a request, from its beginning."""
        url, headers = self.url, self.headers
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
        self.transport.write(head.encode() + self._first_lines() + b"connection: close\r\n\r\n" + problem.body)
