"""Lanes: an ASGI request in, its answer out. `POST /act` and `POST /act/batch` take the fast lane, everything else the general one.

The fast lane calls what the routes of the FastAPI application call, without its machinery: no router, no dependencies, no middleware stack.
The routes stay declared, for the documents and as the lane that tests hold this one to, byte for byte.
"""

import logging
from collections.abc import Callable
from http import HTTPStatus
from time import perf_counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import problems
from service.answers import Answer
from service.bodies import ClientGoneError, read_body
from service.metrics import GONE, Metrics, door_of
from service.problems import ProblemError
from service.request_ids import RequestIds

Door = tuple[int, Callable[[bytes, str | None], Answer]]  # bytes that a body may have; what answers a body and its If-Match

log = logging.getLogger("uvicorn.error")  # the server's own log, whose handlers uvicorn sets up

_JSON = (b"content-type", b"application/json")
_PROBLEM = (b"content-type", problems.MEDIA_TYPE.encode())


class Lanes:
    """The service's ASGI application."""

    def __init__(self, app: ASGIApp, doors: dict[str, Door], metrics: Metrics) -> None:
        self._doors = doors
        self._metrics = metrics
        self._ids = RequestIds()
        self.general = GeneralLane(app, metrics, self._ids)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request, by the fast lane if it has the door."""
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in self._doors:
            await self.general(scope, receive, send)
            return
        started = perf_counter()
        path: str = scope["path"]
        limit, answer = self._doors[path]
        head: dict[bytes, bytes] = dict(scope["headers"][::-1])  # of a header that comes twice the first one counts, as in Starlette
        if_match = head.get(b"if-match")
        request_id = self._ids.of(head.get(b"x-request-id"))
        try:
            body = await read_body(receive, head.get(b"content-length"), limit)
            body, headers, seconds, actions = answer(body, None if if_match is None else if_match.decode("latin-1"))
        except ClientGoneError:
            self._metrics.answered(path, GONE, perf_counter() - started)
            return
        except Exception as error:  # an unforeseen one is answered, and logged
            problem = error if isinstance(error, ProblemError) else problems.internal_error()
            if problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                log_failure(request_id, error)
            status, body, headers, kind = problem.status.value, problem.body, problem.headers, _PROBLEM
        else:
            status, kind = 200, _JSON
            self._metrics.inferred(seconds, actions)
        length = b"%d" % len(body)
        head_sent = [*headers, (b"content-length", length), kind, (b"x-request-id", request_id)]
        await send({"type": "http.response.start", "status": status, "headers": head_sent})
        await send({"type": "http.response.body", "body": body})
        self._metrics.answered(path, status, perf_counter() - started)


def log_failure(request_id: bytes, error: Exception) -> None:
    """Log why a request was answered with a 5xx, under the id that its caller was told."""
    log.error("request %s failed: %s", request_id.decode(), error, exc_info=None if isinstance(error, ProblemError) else error)


class GeneralLane:
    """Pure ASGI middleware around the FastAPI application, so that failures carry a request id and are counted too."""

    def __init__(self, app: ASGIApp, metrics: Metrics, ids: RequestIds) -> None:
        self._app = app
        self._metrics = metrics
        self._ids = ids

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, add the id to the headers of its answer, and count it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = perf_counter()
        request_id = self._ids.of(next((value for name, value in scope["headers"] if name == b"x-request-id"), None))
        status = GONE

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id)]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:
            log_failure(request_id, error)
        finally:
            self._metrics.answered(door_of(scope["path"]), status, perf_counter() - started)
