"""The stream's protocol: bytes of a WebSocket in, bytes out; uvicorn's own, with a fast lane, and with an end to its patience.

A message is answered within the read that brought it, as a request to `/act` is. Frames are still read by the library. What cannot be
answered at once, since the client does not read or wrote before it was let in, goes through ASGI. Knows nothing of what is asked.
"""

import asyncio
from typing import Any

from uvicorn._types import ASGISendEvent
from uvicorn.config import Config
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState

from service.lanes import Lanes
from service.stream import PATH, Channel

SLOW_READER_SECONDS = 5.0  # a reader that takes nothing for so long, while answers wait for it, is closed
TEXT = 0x81  # the first byte of a frame that holds a whole text message (RFC 6455, section 5.2)


class StreamProtocol(WebSocketsSansIOProtocol):
    """One connection. A client that does not read is closed; uvicorn itself waits for it without end, and its answers stay in memory."""

    def __init__(
        self, config: Config, server_state: ServerState, app_state: dict[str, Any], _loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        lanes = config.loaded_app
        assert isinstance(lanes, Lanes)  # noqa: S101 - the one application that is served by this protocol
        self._lanes = lanes
        self._channel: Channel | None = None
        self._patience: asyncio.TimerHandle | None = None

    async def send(self, message: ASGISendEvent) -> None:
        """Send, and know that a handshake is over when it was answered with a refusal: uvicorn logs an error of the application there."""
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            self.handshake_complete = True

    def send_receive_event_to_app(self) -> None:
        """Answer a message at once if it can be."""
        if not self.handshake_complete or self.close_sent or not self.writable.is_set() or self.scope["path"] != PATH:
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
                super().send_receive_event_to_app()  # which closes the connection, as its protocol wants
                return
        self.frames = []
        self._channel.answer(message, self._write)

    def _write(self, answer: bytes) -> None:
        size = len(answer)
        if size < 126:
            head = b"%c%c" % (TEXT, size)
        elif size < 65_536:
            head = b"%c\x7e%b" % (TEXT, size.to_bytes(2))
        else:
            head = b"%c\x7f%b" % (TEXT, size.to_bytes(8))
        self._lanes.outbox.put(self.loop, self.transport, head + answer)

    def pause_writing(self) -> None:
        """Read no further, and start to count, when more answers wait than the transport holds."""
        super().pause_writing()
        self.transport.pause_reading()
        self._patience = self.loop.call_later(SLOW_READER_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Read on: the reader reads."""
        super().resume_writing()
        self.transport.resume_reading()
        self._stop_counting()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop to count: there is no reader any more."""
        self._stop_counting()
        super().connection_lost(exc)

    def _stop_counting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
