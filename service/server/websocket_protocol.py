"""The stream's protocol: bytes of a WebSocket in, bytes out; uvicorn's own, with a fast lane, and with an end to its patience.

A message is answered within the read that brought it, as a request to `/act` is. Frames are still read by the library. What cannot be
answered at once, since the client does not read or wrote before it was let in, goes through ASGI. Knows nothing of what is asked.
"""

import asyncio
from http import HTTPStatus
from typing import Any

from uvicorn._types import ASGIReceiveEvent, ASGISendEvent
from uvicorn.config import Config
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.frames import Frame

from service.rest.stream import PATH, Channel
from service.server import sockets
from service.server.fast_path import Lanes
from service.server.read_scheduler import ALONE, Heap
from service.types import OnWritten

SLOW_READER_SECONDS = (
    5.0  # a reader that takes nothing for so long, while answers wait for it, is closed
)
TEXT = 0x81  # the first byte of a frame that holds a whole text message (RFC 6455, section 5.2)


class StreamProtocol(WebSocketsSansIOProtocol):
    """One connection. A client that does not read is closed; uvicorn itself waits for it without end, and its answers stay in memory."""

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
        self._lanes = lanes
        self._channel: Channel | None = None
        self._patience: asyncio.TimerHandle | None = None
        self._heap = Heap()

    def data_received(self, data: bytes) -> None:
        """Take bytes; of many only some at a time, so that every other connection has its turn."""
        is_waiting = self.handshake_initiated and not self.handshake_complete
        if len(data) <= ALONE and not self._heap.left and not is_waiting:
            self._read(data)
            return
        self._heap.add(data)
        self.transport.pause_reading()
        self._go_on()

    def _read_on(self) -> None:
        """Read the next slice of what came."""
        data = self._heap.take()
        if not self.transport.is_closing():
            self._read(data)
            self._go_on()

    def _go_on(self) -> None:
        if self.read_paused or not self.writable.is_set() or self.transport.is_closing():
            return
        if self.handshake_initiated and not self.handshake_complete:
            return  # what comes before the answer to a handshake is read after it
        if not self._heap.left:
            self.transport.resume_reading()
        else:
            self._heap.wait(self._lanes.turns, self.loop, self._read_on)

    def _read(self, data: bytes) -> None:
        super().data_received(data)
        if not self.handshake_initiated and self.conn.handshake_exc is not None:
            self._refuse()

    def _refuse(self) -> None:
        """End a handshake that cannot be read. The library has written why, or has no words for it."""
        words = b"".join(self.conn.data_to_send())
        self.transport.write(
            words
            or self.conn.reject(
                HTTPStatus.BAD_REQUEST, "This is no WebSocket handshake.\n"
            ).serialize()
        )
        self.transport.close()

    async def send(self, message: ASGISendEvent) -> None:
        """Send what the application says, and read on once it has let the client in."""
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get(
            "more_body", False
        ):
            self.handshake_complete = True  # it was answered with a refusal: uvicorn logs an error of the application there
        if self._heap.left:
            self._go_on()

    async def receive(self) -> ASGIReceiveEvent:
        """Give what came to the application, and read on."""
        event = await super().receive()
        if self._heap.left:
            self._go_on()
        return event

    def handle_cont(self, event: Frame) -> None:
        """Take a part of a message, unless it is an empty one: they are no message, however many come."""
        if event.data or event.fin:
            super().handle_cont(event)

    def handle_close(self, event: Frame) -> None:
        """Close, after the answers to what came before."""
        self._lanes.outbox.flush()
        super().handle_close(event)

    def handle_parser_exception(self) -> None:
        """Close for what came, after the answers to what came before it."""
        self._lanes.outbox.flush()
        super().handle_parser_exception()

    def send_receive_event_to_app(self) -> None:
        """Answer a message at once if it can be."""
        if (
            not self.handshake_complete
            or self.close_sent
            or not self.writable.is_set()
            or self.scope["path"] != PATH
        ):
            super().send_receive_event_to_app()
            return
        if self._channel is None:
            self._channel = self._lanes.stream.channel(list(self.scope["headers"]))
        if not self._channel.is_allowed():
            super().send_receive_event_to_app()  # the guard closes the stream
            return
        message = b"".join(self.frames)
        if self.curr_msg_data_type == "text":
            try:
                message.decode()
            except UnicodeDecodeError:
                self.frames = []
                self.conn.send_close(1007)
                self.handle_parser_exception()
                return
        self.frames = []
        self._channel.answer(message, self._write)

    def _write(self, answer: bytes, after: OnWritten) -> None:
        size = len(answer)
        if size < 126:
            head = b"%c%c" % (TEXT, size)
        elif size < 65_536:
            head = b"%c\x7e%b" % (TEXT, size.to_bytes(2))
        else:
            head = b"%c\x7f%b" % (TEXT, size.to_bytes(8))
        self._lanes.outbox.put(self.loop, self.transport, head + answer, after)

    def pause_writing(self) -> None:
        """Read no further, and start to count, when more answers wait than the transport holds."""
        super().pause_writing()
        self.transport.pause_reading()
        self._patience = self.loop.call_later(SLOW_READER_SECONDS, sockets.cut_off, self.transport)

    def resume_writing(self) -> None:
        """Read on: the reader reads."""
        super().resume_writing()
        self._go_on()
        self._stop_counting()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop to count: there is no reader any more."""
        self._stop_counting()
        self._heap.forget()
        super().connection_lost(exc)

    def _stop_counting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
