"""Lanes: a request in, its answer out. Good requests to `/act` and `/act/batch` take the fast lane, everything else the general one.

The fast lane stands before ASGI: the protocol gives it a whole request, and it gives back the bytes of the whole answer, by calling what
the routes of the FastAPI application call. Whatever it cannot answer with a 200 it leaves to those routes. So there is one place that says
what is wrong with a request, and tests hold the lanes to the same answer, byte for byte.
"""

from asyncio import CancelledError
from collections.abc import Callable, Collection
from functools import partial
from time import perf_counter

from pydantic_core import to_json
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api import act as answers
from service.api import problems
from service.api.act import Answer
from service.api.problems import ProblemError
from service.endpoints import OPEN_INFERENCE_PREFIX, endpoint_of
from service.inference.policy import Inference, Policy
from service.observability.metrics import GONE
from service.observability.observers import FinishedRequest
from service.observability.request_ids import RequestIds
from service.rest.stream import Stream
from service.server.read_scheduler import Turns
from service.server.write_batcher import Outbox
from service.settings import Settings
from service.state import ServiceState
from service.types import Write


class Lanes:
    """The service's ASGI application, which is the general lane; and what the protocols answer by when they do not need ASGI."""

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        service_state: ServiceState,
        ids: RequestIds,
        stream: Stream,
    ) -> None:
        under_way = UnderWay(settings.max_concurrent_requests)
        self.general = GeneralLane(app, service_state, ids, under_way)
        self.fast = FastLane(settings, service_state, ids, under_way)
        self.stream = stream
        self.outbox = Outbox()
        self.turns = Turns()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request by the general lane."""
        await self.general(scope, receive, send)


class UnderWay:
    """How many requests are under way: their head has come, their answer has not gone."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._now = 0

    def enter(self) -> bool:
        """Count one more, unless there are as many as may be."""
        if self._now >= self._most:
            return False
        self._now += 1
        return True

    def leave(self) -> None:
        """Count one less."""
        self._now -= 1


class FastLane:
    """Answers whole requests with whole answers, at once."""

    def __init__(
        self, settings: Settings, service_state: ServiceState, ids: RequestIds, under_way: UnderWay
    ) -> None:
        self._service_state = service_state
        self._ids = ids
        self.under_way = under_way
        self._doors: dict[bytes, Callable[[Policy, bytes, str | None], Answer]] = {
            b"/act": answers.act,
            b"/act/batch": partial(answers.act_batch, max_batch=settings.max_batch),
        }
        self._keys = service_state.keys
        self._scopes = {door: endpoint_of(door.decode()).scope for door in self._doors}
        # Where pages of other origins may call, every answer says that it could differ, and what differs is the general lane's.
        self._vary = b"vary: Origin\r\n" if settings.cors_origin else b""
        self.limits = {
            b"/act": settings.max_body,
            b"/act/batch": settings.max_batch_body,
        }  # bytes that a body may have, by door

    def answer(
        self,
        door: bytes,
        head: dict[bytes, bytes],
        body: bytes,
        started: float,
        first: bytes,
        write: Write,
    ) -> bool:
        """Write the answer to a POST to `door`; returns False if the general lane has to give it.

        `started` is when the request's first byte had come, by `perf_counter`. `first` are header lines that come first.
        """
        service_state = self._service_state
        if self._keys is not None and not self._keys.allows(
            head.get(b"authorization"), self._scopes[door]
        ):
            return False
        if self._vary and b"origin" in head:
            return False
        if_match = head.get(b"if-match")
        try:
            content, own, inference = self._doors[door](
                service_state.policy, body, None if if_match is None else if_match.decode("latin-1")
            )
        except Exception:  # whatever it is, the general lane meets it too, and tells and logs it
            return False
        request_id = self._ids.of(head.get(b"x-request-id"))
        (tag, digest), (timing, took) = own
        write(
            b"HTTP/1.1 200 OK\r\n%b%b: %b\r\n%b: %b\r\ncontent-length: %d\r\ncontent-type: application/json\r\n%bx-request-id: %b\r\n\r\n%b"
            % (first, tag, digest, timing, took, len(content), self._vary, request_id, content),
            partial(self._ended, door.decode(), head, started, request_id, inference),
        )
        return True

    def _ended(
        self,
        door: str,
        head: dict[bytes, bytes],
        started: float,
        request_id: bytes,
        inference: Inference,
    ) -> None:
        service_state, seconds = self._service_state, perf_counter() - started
        service_state.metrics.observe_request(door, 200, seconds)
        if service_state.observers.wants_all_requests:
            service_state.observers.on_request(
                FinishedRequest(
                    door, "POST", door, 200, seconds, request_id, head.items(), inference
                )
            )
        service_state.observers.on_inference(inference, request_id)

    def gone(self, door: bytes, head: dict[bytes, bytes], started: float) -> None:
        """Count a request whose client went away before its body had come."""
        self._service_state.metrics.observe_request(door.decode(), GONE, perf_counter() - started)
        self.unread(GONE, "POST", door, head.items(), started)

    def unread(
        self,
        status: int,
        method: str,
        url: bytes,
        headers: Collection[tuple[bytes, bytes]],
        started: float,
    ) -> None:
        """Tell of a request that was never read whole, if all are told of."""
        if self._service_state.observers.wants_all_requests:
            path = url.partition(b"?")[0].decode("latin-1")
            request_id = self._ids.of(
                next((value for name, value in headers if name == b"x-request-id"), None)
            )
            self._service_state.observers.on_request(
                FinishedRequest(
                    endpoint_of(path).label,
                    method,
                    path,
                    status,
                    perf_counter() - started,
                    request_id,
                    headers,
                )
            )

    def slow(self, part: str) -> None:
        """Count a request that was given up because its `part`, head or body, did not come in time."""
        self._service_state.metrics.inc("upright_slow_requests", part)

    def refused(self, why: str) -> None:
        """Count a request that was refused before it had a door."""
        self._service_state.metrics.inc("upright_refused_requests", why)


class GeneralLane:
    """Pure ASGI middleware around the FastAPI application: limits, counts and names its requests, and answers when it fails."""

    def __init__(
        self, app: ASGIApp, service_state: ServiceState, ids: RequestIds, under_way: UnderWay
    ) -> None:
        self._app = app
        self._service_state = service_state
        self._ids = ids
        self._under_way = under_way

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, add the id to the headers of its answer, and count it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = perf_counter()
        request_id = self._ids.of(
            next((value for name, value in scope["headers"] if name == b"x-request-id"), None)
        )
        state = scope.setdefault("state", {})
        status = GONE
        failure = None

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id)]
            await send(message)

        limited = not endpoint_of(scope["path"]).always_answered
        if limited and not self._under_way.enter():
            await _refuse(problems.too_busy(), scope["path"], send_with_id)
            self._ended(scope, status, started, request_id, None, None)
            return
        try:
            # HEAD is answered as GET is, but for the body, which the server leaves away (RFC 9110, section 9.3.2).
            await self._app(
                {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope,
                receive,
                send_with_id,
            )
        except CancelledError:
            if status != GONE:
                raise
            await _refuse(problems.ending(), scope["path"], send_with_id)
        except Exception as error:
            failure = error
        finally:
            if limited:
                self._under_way.leave()
            self._ended(
                scope,
                status,
                started,
                request_id,
                failure or state.get("failure"),
                state.get("inference"),
            )

    def _ended(
        self,
        scope: Scope,
        status: int,
        started: float,
        request_id: bytes,
        failure: Exception | None,
        inference: Inference | None,
    ) -> None:
        door, seconds = endpoint_of(scope["path"]).label, perf_counter() - started
        self._service_state.metrics.observe_request(door, status, seconds)
        if self._service_state.observers.wants_all_requests or failure is not None:
            headers = scope["headers"]
            self._service_state.observers.on_request(
                FinishedRequest(
                    door,
                    scope["method"],
                    scope["path"],
                    status,
                    seconds,
                    request_id,
                    headers,
                    inference,
                    failure,
                )
            )
        if inference is not None:
            self._service_state.observers.on_inference(inference, request_id)


async def _refuse(problem: ProblemError, path: str, send: Send) -> None:
    body, kind = problem.body, problems.MEDIA_TYPE
    if endpoint_of(path).label == OPEN_INFERENCE_PREFIX:
        body, kind = to_json({"error": str(problem)}), "application/json"
    headers = [
        *problem.headers,
        (b"content-length", b"%d" % len(body)),
        (b"content-type", kind.encode()),
    ]
    await send({"type": "http.response.start", "status": problem.status.value, "headers": headers})
    await send({"type": "http.response.body", "body": body})
