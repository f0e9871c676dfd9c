"""Lanes: a request in, its answer out. Good requests to `/act` and `/act/batch` take the fast lane, everything else the general one.

The fast lane stands before ASGI: the protocol gives it a whole request, and it gives back the bytes of the whole answer, by calling what
the routes of the FastAPI application call. Whatever it cannot answer with a 200 it leaves to those routes. So there is one place that says
what is wrong with a request, and tests hold the lanes to the same answer, byte for byte.
"""

from collections.abc import Callable
from functools import partial
from time import perf_counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import answers
from service.answers import Answer
from service.metrics import GONE, door_of
from service.policy import Policy
from service.problems import RawHeader
from service.request_ids import RequestIds
from service.served import Request, Served
from service.settings import Settings


class Lanes:
    """The service's ASGI application, which is the general lane; and the fast lane, for the protocol that knows of it."""

    def __init__(self, app: ASGIApp, settings: Settings, served: Served, ids: RequestIds) -> None:
        self.general = GeneralLane(app, served, ids)
        self.fast = FastLane(settings, served, ids)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request by the general lane."""
        await self.general(scope, receive, send)


class FastLane:
    """Answers whole requests with whole answers, at once."""

    def __init__(self, settings: Settings, served: Served, ids: RequestIds) -> None:
        self._served = served
        self._ids = ids
        self._doors: dict[bytes, Callable[[Policy, bytes, str | None], Answer]] = {
            b"/act": answers.act,
            b"/act/batch": partial(answers.act_batch, max_batch=settings.max_batch),
        }
        self.limits = {b"/act": settings.max_body, b"/act/batch": settings.max_batch_body}  # bytes that a body may have, by door

    def answer(
        self, door: bytes, headers: list[RawHeader], body: bytes, started: float, first: bytes, write: Callable[[bytes], None]
    ) -> bool:
        """Write the answer to a POST to `door`, which begins with the header lines `first`; False if the general lane has to give it.

        `started` is when its head had come, by `perf_counter`.
        """
        served = self._served
        head = dict(headers[::-1])  # of a header that comes twice the first one counts, as in Starlette
        if_match = head.get(b"if-match")
        try:
            content, own, inference = self._doors[door](served.policy, body, None if if_match is None else if_match.decode("latin-1"))
        except Exception:  # whatever it is, the general lane meets it too, and tells and logs it
            return False
        request_id = self._ids.of(head.get(b"x-request-id"))
        (tag, digest), (timing, took) = own
        write(
            b"HTTP/1.1 200 OK\r\n%b%b: %b\r\n%b: %b\r\ncontent-length: %d\r\ncontent-type: application/json\r\nx-request-id: %b\r\n\r\n%b"
            % (first, tag, digest, timing, took, len(content), request_id, content)
        )
        seconds = perf_counter() - started
        served.metrics.answered(door.decode(), 200, seconds)
        if served.every:
            served.ended(Request(door.decode(), "POST", door.decode(), 200, seconds, request_id, headers, inference))
        served.answered(inference, request_id)
        return True


class GeneralLane:
    """Pure ASGI middleware around the FastAPI application, so that failures carry a request id and are counted too."""

    def __init__(self, app: ASGIApp, served: Served, ids: RequestIds) -> None:
        self._app = app
        self._served = served
        self._ids = ids

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, add the id to the headers of its answer, and count it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        served = self._served
        started = perf_counter()
        request_id = self._ids.of(next((value for name, value in scope["headers"] if name == b"x-request-id"), None))
        state = scope.setdefault("state", {})
        status = GONE
        failure = None

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id)]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:
            failure = error
        finally:
            door, seconds, inference = door_of(scope["path"]), perf_counter() - started, state.get("inference")
            failure = failure or state.get("failure")
            served.metrics.answered(door, status, seconds)
            served.ended(Request(door, scope["method"], scope["path"], status, seconds, request_id, scope["headers"], inference, failure))
            if inference is not None:
                served.answered(inference, request_id)
