"""The guard: requests in; those with the right key go on to the application, the others are answered with 401 or 403."""

from http import HTTPStatus

from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api import problems
from service.api.problems import ProblemError
from service.auth import keys
from service.auth.keys import Keys, Refusal
from service.endpoints import Scope as KeyScope
from service.endpoints import endpoint_of
from service.observability.metrics import Metrics
from service.rest import open_inference as oip

KINDS: dict[Refusal, tuple[HTTPStatus, str]] = {
    "missing": (HTTPStatus.UNAUTHORIZED, "missing-key"),
    "unknown": (HTTPStatus.UNAUTHORIZED, "unknown-key"),
    "scope": (HTTPStatus.FORBIDDEN, "other-scope"),
}
NO_LONGER = (
    1008  # the code that a stream is closed with: against the rules (RFC 6455, section 7.4.1)
)


class Guard:
    """Pure ASGI middleware around the application."""

    def __init__(self, app: ASGIApp, known: Keys, metrics: Metrics) -> None:
        self._app = app
        self._keys = known
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it."""
        if scope["type"] == "lifespan" or (needed := endpoint_of(scope["path"]).scope) is None:
            await self._app(scope, receive, send)
            return
        header = next((value for name, value in scope["headers"] if name == b"authorization"), None)
        refusal = self._keys.refusal(header, needed)
        if refusal is not None:
            self._metrics.inc(keys.EVENT, refusal)
            await _response(refusal, scope["path"], needed)(scope, receive, send)
            return
        if scope["type"] == "http":
            await self._app(scope, receive, send)
            return

        async def receive_while_allowed() -> Message:
            # A stream may stay for days: a key that is taken away closes it at its next message.
            message = await receive()
            if message["type"] == "websocket.receive" and not self._keys.allows(header, needed):
                await send(
                    {
                        "type": "websocket.close",
                        "code": NO_LONGER,
                        "reason": "the key is not valid any more",
                    }
                )
                return {"type": "websocket.disconnect", "code": NO_LONGER}
            return message

        await self._app(scope, receive_while_allowed, send)


def _response(refusal: Refusal, path: str, needed: KeyScope) -> Response:
    """Return the answer to a request or to a WebSocket's handshake."""
    status, kind = KINDS[refusal]
    detail = keys.describe(refusal, path, needed)
    headers = {"WWW-Authenticate": keys.challenge(refusal, needed)}
    if path == oip.PREFIX or path.startswith(f"{oip.PREFIX}/"):
        return JSONResponse({"error": detail}, status, headers)
    return Response(ProblemError(status, kind, detail).body, status, headers, problems.MEDIA_TYPE)
