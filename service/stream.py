"""The stream: one JSON message a state in, one answer out, over a WebSocket that stays. Knows nothing of what an answer holds."""

import asyncio
import json
from http import HTTPStatus
from time import perf_counter

from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from service import answers
from service.problems import ProblemError
from service.request_ids import RequestIds
from service.served import Request, Served

PATH = "/act/stream"
SLOW_READER_SECONDS = 5.0  # a reader that takes nothing for so long, while answers wait for it, is closed


class Stream:
    """The ASGI application of `WS /act/stream`. Each message is answered as `POST /act` would have answered it, in order."""

    def __init__(self, served: Served, ids: RequestIds) -> None:
        self._served = served
        self._ids = ids

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Accept, then answer message by message until the other side leaves."""
        # As on POST /act, If-Match names the bundle that the caller means; on a stream it holds for every message.
        if_match = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"if-match"), None)
        request_id = self._ids.of(next((value for name, value in scope["headers"] if name == b"x-request-id"), None))
        await receive()
        await send({"type": "websocket.accept"})
        try:
            while (message := await receive())["type"] == "websocket.receive":
                await self._answer(message, if_match, request_id, scope, send)
        except OSError:  # the server's word for a client that left while its answer was on the way
            return

    async def _answer(self, message: Message, if_match: str | None, request_id: bytes, scope: Scope, send: Send) -> None:
        started = perf_counter()
        text = message.get("text")
        body = text.encode() if text is not None else message["bytes"]
        inference, failure = None, None
        status = 200
        try:
            content, _, inference = answers.act(self._served.policy, body, if_match)
        except ProblemError as error:
            status, content = error.status, with_seq(error, body)
            failure = error if status == HTTPStatus.INTERNAL_SERVER_ERROR else None
        await send({"type": "websocket.send", "text": content.decode()})
        seconds = perf_counter() - started
        self._served.metrics.answered(PATH, status, seconds)
        if self._served.every or failure is not None:
            self._served.ended(Request(PATH, "GET", PATH, status, seconds, request_id, scope["headers"], inference, failure))
        if inference is not None:
            self._served.answered(inference, request_id)


def with_seq(error: ProblemError, body: bytes) -> bytes:
    """Return the problem as JSON with the message's `seq`, where one can be read: on a stream only that says what it answers."""
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):
        return error.body
    seq = message.get("seq") if isinstance(message, dict) else None
    if type(seq) is not int:
        return error.body
    return json.dumps(json.loads(error.body) | {"seq": seq}, ensure_ascii=False, separators=(",", ":")).encode()


class StreamProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol, which also closes a connection whose reader does not read.

    uvicorn itself waits for such a reader without end, and its answers stay in memory.
    """

    _patience: asyncio.TimerHandle | None = None

    def pause_writing(self) -> None:
        """Start to count when more answers wait than the transport holds."""
        super().pause_writing()
        self._patience = self.loop.call_later(SLOW_READER_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop to count: the reader reads."""
        super().resume_writing()
        self._stop_counting()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop to count: there is no reader any more."""
        self._stop_counting()
        super().connection_lost(exc)

    def _stop_counting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
