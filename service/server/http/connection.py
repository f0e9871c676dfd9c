"""One HTTP connection: what it reads and writes, how far it is, and what it holds.

A connection and the objects that it holds must not hold each other once it is over: its memory is
then free at once, and not when the garbage collector runs. So helpers are given methods of the
connection for one call, and keep none.
"""

import asyncio
from abc import abstractmethod
from time import perf_counter
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from service.api.problems import ProblemError
from service.server.application import Application
from service.server.http.reading import IgnoringParser, ReadFlow
from service.server.http.request import FastRequest, Phase, RequestSize
from service.server.http.responses import DefaultHeaders
from service.server.http.timeouts import ConnectionAge, Timeouts
from service.server.read_scheduler import READ_SLICE, ReadBuffer
from service.types import OnWritten

UNSENT_BYTES_LIMIT = 4_096  # of answers that the kernel has not taken; beyond it reading pauses


class HttpConnection(HttpToolsProtocol):
    """The bytes of a connection, read in fair slices."""

    transport: asyncio.Transport
    flow: ReadFlow

    def __init__(
        self,
        application: Application,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._fast_path = application.fast_path
        self._write_batcher = application.write_batcher
        self._read_scheduler = application.read_scheduler
        self._default_headers = DefaultHeaders(server_state)
        self._allowed_hosts = application.allowed_hosts
        self._metrics = application.metrics

        # The connection
        self._phase = Phase.IDLE
        self._phase_since = perf_counter()
        self._timeouts = Timeouts()
        self._age = ConnectionAge()
        self._unread = ReadBuffer(application.read_scheduler, self.loop)
        self._closes_after_response = False  # the service stops, or a request was refused
        self._deferred_problem: ProblemError | None = (
            None  # to be sent after the outstanding answers
        )

        # The Host of the last request, which need not be checked again, and whether the service may
        # be called by it. None: a request of HTTP/1.0 without one.
        self._host: bytes | None = b""
        self._is_host_allowed = False

        # The request
        self.url = b""
        self._headers: dict[bytes, bytes] = {}
        self._size = RequestSize()
        self._fast_request = FastRequest(application.limiter)
        self._running: RequestResponseCycle | None = None

    # Reading

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # connections are streams
        """Begin."""
        super().connection_made(transport)
        self._metrics.add("upright_connections", "http", 1)
        transport.set_write_buffer_limits(UNSENT_BYTES_LIMIT)
        self.flow = ReadFlow(transport, self._may_resume_reading)

    def data_received(self, data: bytes) -> None:
        """Read bytes: a few at once, many in slices between those of other connections."""
        if self.timeout_keep_alive_task is not None:
            self._unset_keepalive_if_required()
        if self._unread.can_skip(data):
            self._read(data)
            return
        self._unread.append(data)
        self.flow.pause_reading()
        self._unread.schedule(self._read_slice)

    def _read_slice(self) -> None:
        """Read the next slice of what came."""
        size = READ_SLICE
        if self._phase is Phase.READING_BODY:  # the bytes of a body cost next to nothing
            length = int(self._headers.get(b"content-length", b"0"))
            size = max(size, length - self._body_size())
        data = self._unread.take(size)
        if not self.transport.is_closing():
            self._read(data)
        if not self.transport.is_closing():
            self.flow.resume_reading()

    def _may_resume_reading(self) -> bool:
        """Return whether more may come. What has come and waits is read first."""
        if self.flow.write_paused or self.pipeline:
            return False
        if self._unread:
            self._unread.schedule(self._read_slice)
        return not self._unread

    @abstractmethod
    def _read(self, data: bytes) -> None:
        """Parse bytes, and act on the requests in them."""

    def _body_size(self) -> int:
        """Return how many bytes have come of the body that is being read."""
        fast_request = self._fast_request
        return self._size.body_size if fast_request.endpoint is None else len(fast_request.body)

    # Writing

    def _write(self, answer: bytes, on_written: OnWritten) -> None:
        """Write an answer together with those of other connections, and tell when it was."""
        self._write_batcher.put(self.loop, self.transport, answer, on_written)

    def _is_answered(self) -> bool:
        """Return whether the ASGI path owes no answer."""
        return self.cycle is None or self.cycle.response_complete

    def pause_writing(self) -> None:
        """Read no further: a client that does not read its answers is not read either."""
        super().pause_writing()
        self.flow.pause_reading()

    def resume_writing(self) -> None:
        """Read on: the client reads."""
        super().resume_writing()
        self.flow.resume_reading()

    def eof_received(self) -> bool:  # type: ignore[override] # uvicorn's closes always
        """Return whether to stay open for a client that sends no more: until its last answer."""
        self._write_batcher.flush()
        if self._phase is not Phase.RESPONDING or not self.transport.can_write_eof():
            return False
        self.cycle.keep_alive = False
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Drop the requests in flight."""
        endpoint = self._fast_request.endpoint
        if endpoint is not None:
            self._fast_path.client_gone(endpoint, self._headers, self._phase_since)
            self._fast_request.clear()
        if self._running is not None:  # uvicorn tells the last request alone, not an earlier one
            self._running.disconnected = True
            self._running.message_event.set()
        self.pipeline.clear()
        self._metrics.add("upright_connections", "http", -1)
        super().connection_lost(exc)
        self._release_references()

    def _release_references(self) -> None:
        """Drop what refers back to this connection."""
        self._unset_keepalive_if_required()
        self.flow.detach()
        self.parser = IgnoringParser()  # type: ignore[assignment] # it has what is still called
        self.cycle = self._running = None  # type: ignore[assignment] # as before the first request
        self._unread.clear()
