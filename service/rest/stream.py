"""The endpoint `WS /act/stream`: a WebSocket on which each message is a state to answer."""

import json
from functools import partial
from http import HTTPStatus
from time import perf_counter

from starlette.types import Receive, Scope, Send

from service.api import problems
from service.api.act import act
from service.api.message_rate import MessageRate
from service.api.problems import ProblemError
from service.endpoints import endpoint_of
from service.inference.policy import Inference
from service.observability.observers import FinishedRequest
from service.observability.request_ids import RequestIds
from service.settings import Settings
from service.state import ServiceState
from service.types import OnWritten, RawHeader, Write

PATH = "/act/stream"
SCOPE = endpoint_of(PATH).scope


class Channel:
    """One stream: answers each message as `POST /act` would, up to a rate in messages a second."""

    def __init__(
        self,
        settings: Settings,
        service_state: ServiceState,
        ids: RequestIds,
        headers: list[RawHeader],
    ) -> None:
        self._service_state = service_state
        self._strict = settings.refuse_out_of_range
        self._headers = headers

        self._rate = MessageRate(settings.stream_rate)

        # Of two headers of the same name the first one counts. If-Match names the bundle that the
        # caller means, as on POST /act; on a stream it holds for every message.
        first_headers = dict(headers[::-1])
        if_match = first_headers.get(b"if-match")
        self._if_match = None if if_match is None else if_match.decode("latin-1")
        self._request_id = ids.of(first_headers.get(b"x-request-id"))
        self._authorization = first_headers.get(b"authorization")

    def is_allowed(self) -> bool:
        """Return whether the key that opened the stream is still valid."""
        keys = self._service_state.keys
        return keys is None or keys.allows(self._authorization, SCOPE)

    def answer(self, body: bytes, write: Write) -> None:
        """Write the answer to one message."""
        started = perf_counter()
        try:
            if self._rate.is_exceeded():
                raise problems.too_fast(self._rate.limit)
            content, _, inference = act(
                self._service_state.policy, body, self._if_match, strict=self._strict
            )
        except Exception as error:  # an unforeseen one is answered, and logged
            problem = error if isinstance(error, ProblemError) else problems.internal_error()
            is_failure = problem.status == HTTPStatus.INTERNAL_SERVER_ERROR
            failure = error if is_failure else None
            on_written = partial(self._on_written, problem.status, started, None, failure)
            write(_with_seq(problem, body), on_written)
            return

        write(content, partial(self._on_written, 200, started, inference, None))

    def _on_written(
        self,
        status: int,
        started: float,
        inference: Inference | None,
        failure: Exception | None,
    ) -> None:
        """Count the message, and report it, once its answer has been handed to the kernel."""
        seconds = perf_counter() - started
        observers = self._service_state.observers
        self._service_state.metrics.observe_request(PATH, status, seconds)
        if inference is not None:
            observers.on_inference(inference, self._request_id)
        if observers.wants_all_requests or failure is not None:
            observers.on_request(
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


class Stream:
    """Makes the channels. Called, it is the endpoint as an ASGI application, for any server."""

    def __init__(self, settings: Settings, service_state: ServiceState, ids: RequestIds) -> None:
        self._settings = settings
        self._service_state = service_state
        self._ids = ids

    def channel(self, headers: list[RawHeader]) -> Channel:
        """Return the channel of a connection that came with these headers."""
        return Channel(self._settings, self._service_state, self._ids, headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Accept, then answer message by message until the other side leaves."""
        channel = self.channel(scope["headers"])
        answers: list[tuple[bytes, OnWritten]] = []

        def write(content: bytes, on_written: OnWritten) -> None:
            answers.append((content, on_written))

        await receive()
        await send({"type": "websocket.accept"})
        try:
            while (message := await receive())["type"] == "websocket.receive":
                text = message.get("text")
                channel.answer(text.encode() if text is not None else message["bytes"], write)
                content, on_written = answers.pop()
                await send({"type": "websocket.send", "text": content.decode()})
                on_written()
        except OSError:  # raised by servers when the client left while its answer was on the way
            return


def _with_seq(problem: ProblemError, body: bytes) -> bytes:
    """Return a problem as JSON, with the message's `seq` where one can be read.

    On a stream nothing else says which message it answers.
    """
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):
        return problem.body

    seq = message.get("seq") if isinstance(message, dict) else None
    if type(seq) is not int:
        return problem.body
    content = json.loads(problem.body) | {"seq": seq}
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
