"""The stream: one JSON message a state in, one answer out, over a WebSocket that stays. Knows nothing of what an answer holds."""

import json
from functools import partial
from http import HTTPStatus
from time import perf_counter

from starlette.types import Receive, Scope, Send

from service.api import act as answers
from service.api import problems
from service.api.problems import ProblemError, RawHeader
from service.endpoints import endpoint_of
from service.inference.policy import Inference
from service.observability.observers import FinishedRequest
from service.observability.request_ids import RequestIds
from service.settings import Settings
from service.state import ServiceState
from service.types import OnWritten, Write

PATH = "/act/stream"
SCOPE = endpoint_of(PATH).scope


class Channel:
    """One stream: answers each message as `POST /act` would have answered it, and no faster than it may be asked."""

    def __init__(
        self, service_state: ServiceState, ids: RequestIds, rate: int, headers: list[RawHeader]
    ) -> None:
        self._service_state = service_state
        self._rate = rate
        self._second = 0
        self._count = 0
        self._headers = headers
        head = dict(headers[::-1])
        # As on POST /act, If-Match names the bundle that the caller means; on a stream it holds for every message.
        if_match = head.get(b"if-match")
        self._if_match = None if if_match is None else if_match.decode("latin-1")
        self._request_id = ids.of(head.get(b"x-request-id"))
        self._authorization = head.get(b"authorization")

    def is_allowed(self) -> bool:
        """Return whether the key that opened the stream still does: it may have been taken away since."""
        keys = self._service_state.keys
        return keys is None or keys.allows(self._authorization, SCOPE)

    def answer(self, body: bytes, write: Write) -> None:
        """Write the answer to one message."""
        started = perf_counter()
        service_state = self._service_state
        try:
            if self._rate:
                self._check_rate(int(started))
            content, _, inference = answers.act(service_state.policy, body, self._if_match)
        except Exception as error:  # an unforeseen one is answered, and logged
            problem = error if isinstance(error, ProblemError) else problems.internal_error()
            failure = error if problem.status == HTTPStatus.INTERNAL_SERVER_ERROR else None
            write(
                with_seq(problem, body),
                partial(self._ended, problem.status, started, None, failure),
            )
            return
        write(content, partial(self._ended, 200, started, inference, None))

    def _ended(
        self, status: int, started: float, inference: Inference | None, failure: Exception | None
    ) -> None:
        seconds = perf_counter() - started
        self._service_state.metrics.observe_request(PATH, status, seconds)
        if inference is not None:
            self._service_state.observers.on_inference(inference, self._request_id)
        if self._service_state.observers.wants_all_requests or failure is not None:
            self._service_state.observers.on_request(
                FinishedRequest(
                    PATH,
                    "GET",
                    PATH,
                    status,
                    seconds,
                    self._request_id,
                    self._headers,
                    inference,
                    failure,
                )
            )

    def _check_rate(self, second: int) -> None:
        if second != self._second:
            self._second, self._count = second, 0
        self._count += 1
        if self._count > self._rate:
            raise problems.too_fast(self._rate)


class Stream:
    """The ASGI application of `WS /act/stream`, and the maker of its channels."""

    def __init__(self, settings: Settings, service_state: ServiceState, ids: RequestIds) -> None:
        self._settings = settings
        self._service_state = service_state
        self._ids = ids

    def channel(self, headers: list[RawHeader]) -> Channel:
        """Return the channel of a connection that came with these headers."""
        return Channel(self._service_state, self._ids, self._settings.stream_rate, headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Accept, then answer message by message until the other side leaves."""
        channel = self.channel(scope["headers"])
        answered: list[tuple[bytes, OnWritten]] = []

        def write(answer: bytes, after: OnWritten) -> None:
            answered.append((answer, after))

        await receive()
        await send({"type": "websocket.accept"})
        try:
            while (message := await receive())["type"] == "websocket.receive":
                text = message.get("text")
                channel.answer(text.encode() if text is not None else message["bytes"], write)
                answer, after = answered.pop()
                await send({"type": "websocket.send", "text": answer.decode()})
                after()
        except OSError:  # the server's word for a client that left while its answer was on the way
            return


def with_seq(error: ProblemError, body: bytes) -> bytes:
    """Return the problem as JSON with the message's `seq`, where one can be read: on a stream only that says what it answers."""
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):
        return error.body
    seq = message.get("seq") if isinstance(message, dict) else None
    if type(seq) is not int:
        return error.body
    return json.dumps(
        json.loads(error.body) | {"seq": seq}, ensure_ascii=False, separators=(",", ":")
    ).encode()
