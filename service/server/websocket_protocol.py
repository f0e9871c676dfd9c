"""WebSocket for `WS /act/stream`: uvicorn's protocol with a fast path, limits and time-outs.

A message is answered within the read that brought it, as a request to `/act` is. Frames are read by
the library. What cannot be answered at once, since the client does not read or wrote before its
handshake was answered, goes through ASGI.
"""

import asyncio
import logging
from http import HTTPStatus
from typing import Any

from uvicorn._types import ASGIReceiveEvent, ASGISendEvent
from uvicorn.config import Config
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.frames import Frame
from websockets.server import ServerProtocol

from service.observability.logging import STREAMS_LOGGER
from service.rest.stream import PATH, Channel
from service.server import sockets
from service.server.application import Application
from service.server.http.timeouts import ConnectionAge
from service.server.read_scheduler import ReadBuffer
from service.settings import Settings
from service.types import OnWritten

GOING_AWAY = 1001  # close code (RFC 6455, section 7.4.1)
UNREAD_ANSWERS_SECONDS = 5.0  # in which a client must take some of the answers that wait for it
log = logging.getLogger(STREAMS_LOGGER)

WHOLE_TEXT_FRAME = (
    0x81  # the first byte of a frame with a whole text message (RFC 6455, section 5.2)
)


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """One connection. A client that does not read is closed; uvicorn would keep its answers."""

    def __init__(
        self,
        application: Application,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.logger = log
        extensions = self.conn.available_extensions
        self.conn = ServerProtocol(extensions=extensions, max_size=config.ws_max_size, logger=log)
        self._stream = application.stream
        self._write_batcher = application.write_batcher
        self._unread = ReadBuffer(application.read_scheduler, self.loop)
        self._channel: Channel | None = None
        self._write_timeout: asyncio.TimerHandle | None = None
        self._metrics = application.metrics
        self._age = ConnectionAge()
        self._is_old = False  # the next answer is the last one

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        super().connection_made(transport)
        self._metrics.add("upright_connections", "stream", 1)

    # Reading

    def data_received(self, data: bytes) -> None:
        """Read bytes: a few at once, many in slices between those of other connections."""
        if self._unread.can_skip(data) and not self._awaits_handshake_answer():
            self._read(data)
            return
        self._unread.append(data)
        self.transport.pause_reading()
        self._resume_reading()

    def _read_slice(self) -> None:
        """Read the next slice of what came."""
        data = self._unread.take()
        if not self.transport.is_closing():
            self._read(data)
            self._resume_reading()

    def _resume_reading(self) -> None:
        """Read on, if the connection may: first what came already, then what is still to come."""
        if self.read_paused or not self.writable.is_set() or self.transport.is_closing():
            return
        if self._awaits_handshake_answer():
            return
        if self._unread:
            self._unread.schedule(self._read_slice)
        else:
            self.transport.resume_reading()

    def _awaits_handshake_answer(self) -> bool:
        return self.handshake_initiated and not self.handshake_complete

    def _read(self, data: bytes) -> None:
        super().data_received(data)
        if not self.handshake_initiated and self.conn.handshake_exc is not None:
            self._refuse_handshake()
        if self._is_old:
            self._close_old()

    def _refuse_handshake(self) -> None:
        """End a handshake that cannot be read. The library may have written why."""
        answer = b"".join(self.conn.data_to_send())
        if not answer:
            text = "This is no WebSocket handshake.\n"
            answer = self.conn.reject(HTTPStatus.BAD_REQUEST, text).serialize()
        self.transport.write(answer)
        self.transport.close()

    # Age

    def check_timeouts(self, now: float, settings: Settings) -> None:
        """End a stream that is old: with its next answer, or if none was due since the last check.

        A client that is told together with an answer has until its next message to come back.
        """
        if self._age.exceeds(settings.max_connection_age, now):
            if self._is_old:
                self._close_old()
            self._is_old = True

    def _close_old(self) -> None:
        """Begin to close, unless something that came is not answered yet, or it closes anyway."""
        is_answered = not (self.read_paused or self.frames or self.conn.reader.buffer)
        if not self.handshake_complete or self.close_sent or not is_answered:
            return
        if self._unread or self.transport.is_closing():
            return
        self._write_batcher.flush()
        self.queue.put_nowait({"type": "websocket.disconnect", "code": GOING_AWAY})
        self.conn.send_close(GOING_AWAY)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.close_timer = self.loop.call_later(self.close_timeout, self.transport.close)

    # ASGI

    async def send(self, message: ASGISendEvent) -> None:
        """Send what the application says, and read on once it has answered the handshake."""
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body"):
            # The handshake was refused. uvicorn would take that for an application that failed, and
            # log an error.
            self.handshake_complete = True
        if self._unread:
            self._resume_reading()

    async def receive(self) -> ASGIReceiveEvent:
        """Give what came to the application, and read on."""
        event = await super().receive()
        if self._unread:
            self._resume_reading()
        return event

    # Frames

    def handle_cont(self, event: Frame) -> None:
        """Take a part of a message; empty parts that do not end one are skipped."""
        if event.data or event.fin:
            super().handle_cont(event)

    def handle_close(self, event: Frame) -> None:
        """Close, after the answers to what came before."""
        self._write_batcher.flush()
        super().handle_close(event)

    def handle_parser_exception(self) -> None:
        """Close for what came, after the answers to what came before it."""
        self._write_batcher.flush()
        super().handle_parser_exception()

    def send_receive_event_to_app(self) -> None:
        """Answer a message at once if it can be, else leave it to the application."""
        if (
            not self.handshake_complete
            or self.close_sent
            or not self.writable.is_set()
            or self.scope["path"] != PATH
        ):
            super().send_receive_event_to_app()
            return
        if self._channel is None:
            self._channel = self._stream.channel(list(self.scope["headers"]))
        if not self._channel.is_allowed():
            super().send_receive_event_to_app()  # the application's middleware closes the stream
            return

        message = b"".join(self.frames)
        self.frames = []
        if self.curr_msg_data_type == "text" and not _is_utf8(message):
            self.conn.send_close(1007)
            self.handle_parser_exception()
            return
        self._channel.answer(message, self._write)

    # Writing

    def _write(self, answer: bytes, on_written: OnWritten) -> None:
        size = len(answer)
        if size < 126:
            header = b"%c%c" % (WHOLE_TEXT_FRAME, size)
        elif size < 65_536:
            header = b"%c\x7e%b" % (WHOLE_TEXT_FRAME, size.to_bytes(2))
        else:
            header = b"%c\x7f%b" % (WHOLE_TEXT_FRAME, size.to_bytes(8))
        self._write_batcher.put(self.loop, self.transport, header + answer, on_written)

    def pause_writing(self) -> None:
        """Read no further while too many answers wait, and wait only for a limited time."""
        super().pause_writing()
        self.transport.pause_reading()
        self._write_timeout = self.loop.call_later(
            UNREAD_ANSWERS_SECONDS, sockets.abort_with_reset, self.transport
        )

    def resume_writing(self) -> None:
        """Read on: the client reads."""
        super().resume_writing()
        self._resume_reading()
        self._cancel_write_timeout()

    def connection_lost(self, exc: Exception | None) -> None:
        """Drop what was not read."""
        self._cancel_write_timeout()
        self._unread.clear()
        self._metrics.add("upright_connections", "stream", -1)
        super().connection_lost(exc)

    def _cancel_write_timeout(self) -> None:
        if self._write_timeout is not None:
            self._write_timeout.cancel()
            self._write_timeout = None


def _is_utf8(message: bytes) -> bool:
    try:
        message.decode()
    except UnicodeDecodeError:
        return False
    return True
