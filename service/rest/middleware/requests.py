"""Middleware around all HTTP endpoints: request ids, the limit of concurrency, and reports."""

from asyncio import CancelledError
from time import perf_counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api import problems
from service.api.problems import ProblemError
from service.endpoints import Endpoint, endpoint_of
from service.observability.metric_layout import CLIENT_CLOSED_REQUEST
from service.observability.metrics import Metrics
from service.observability.observers import FinishedRequest
from service.observability.request_ids import RequestIds
from service.rest.responses import OUTCOME, Outcome, error_response
from service.state import ServiceState


class ConcurrencyLimiter:
    """Counts the requests whose headers have come and whose answer has not gone, up to a limit."""

    def __init__(self, limit: int, metrics: Metrics) -> None:
        self._limit = limit
        self._metrics = metrics
        self._count = 0

    def try_acquire(self) -> bool:
        """Count one more request, unless there are as many as may be; return whether it counts."""
        if self._count >= self._limit:
            return False
        self._count += 1
        self._metrics.add("upright_in_flight", "http", 1)
        return True

    def release(self) -> None:
        """Count one less."""
        self._count -= 1
        self._metrics.add("upright_in_flight", "http", -1)


class _Exchange:
    """A request, or the handshake of a stream, and what is known so far of its answer."""

    def __init__(self, scope: Scope, send: Send, request_id: bytes) -> None:
        self.scope = scope
        self.endpoint: Endpoint = endpoint_of(scope["path"])
        self.request_id = request_id
        self.started = perf_counter()
        self.status = CLIENT_CLOSED_REQUEST
        self.outcome = Outcome()
        self._send = send

    async def send(self, message: Message) -> None:
        """Send a message of the answer: the first one with the id, and without the outcome."""
        if message["type"].endswith("http.response.start"):  # a refused handshake's too
            self.status = message["status"]
            self.outcome = message.get(OUTCOME, self.outcome)
            message = {name: value for name, value in message.items() if name != OUTCOME}
            message["headers"] = [*message["headers"], (b"x-request-id", self.request_id)]
        await self._send(message)

    def fail(self, error: Exception) -> None:
        """Note that the service failed."""
        self.outcome = self.outcome._replace(failure=error)

    async def refuse(self, problem: ProblemError, receive: Receive) -> None:
        """Answer with a problem."""
        await error_response(problem, self.scope["path"])(self.scope, receive, self.send)


class RequestMiddleware:
    """Pure ASGI middleware around the application, and around the middleware that asks for keys."""

    def __init__(
        self,
        app: ASGIApp,
        service_state: ServiceState,
        ids: RequestIds,
        limiter: ConcurrencyLimiter,
    ) -> None:
        self._app = app
        self._service_state = service_state
        self._ids = ids
        self._limiter = limiter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, add its id to the answer, and report both to the observers."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return

        id_header = next(
            (value for name, value in scope["headers"] if name == b"x-request-id"), None
        )
        exchange = _Exchange(scope, send, self._ids.of(id_header))
        if scope["type"] == "websocket":
            await self._app(scope, receive, exchange.send)
            if exchange.status != CLIENT_CLOSED_REQUEST:  # refused; else its messages are reported
                self._report(exchange)
            return

        is_limited = not exchange.endpoint.always_answered
        if is_limited and not self._limiter.try_acquire():
            await exchange.refuse(problems.too_busy(), receive)
            self._report(exchange)
            return

        try:
            await self._answer(exchange, receive)
        finally:
            if is_limited:
                self._limiter.release()
            self._report(exchange)

    async def _answer(self, exchange: _Exchange, receive: Receive) -> None:
        """Let the application answer; if it fails before it has begun, answer in its place."""
        scope = exchange.scope
        if scope["method"] == "HEAD":
            # As GET but for the body, which the server leaves away (RFC 9110, section 9.3.2).
            scope = {**scope, "method": "GET"}
        try:
            await self._app(scope, receive, exchange.send)
        except CancelledError:  # the service ends
            if exchange.status != CLIENT_CLOSED_REQUEST:
                raise
            await exchange.refuse(problems.ending(), receive)
        except Exception as error:  # it was answered with 500 before it came here
            exchange.fail(error)

    def _report(self, exchange: _Exchange) -> None:
        """Count the request, and tell the observers of it and of its inference."""
        scope, endpoint = exchange.scope, exchange.endpoint
        inference, failure = exchange.outcome
        seconds = perf_counter() - exchange.started
        observers = self._service_state.observers
        self._service_state.metrics.observe_request(endpoint.label, exchange.status, seconds)

        if observers.wants_all_requests or failure is not None:
            observers.on_request(
                FinishedRequest(
                    endpoint.label,
                    scope.get("method", "GET"),  # which a handshake is
                    scope["path"],
                    exchange.status,
                    seconds,
                    exchange.request_id,
                    scope["headers"],
                    inference,
                    failure,
                )
            )
        if inference is not None:
            observers.on_inference(inference, exchange.request_id)
