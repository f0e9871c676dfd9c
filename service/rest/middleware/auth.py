"""Middleware that asks for keys: requests without the right one are answered with 401 or 403."""

from http import HTTPStatus

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import ProblemError
from service.auth import keys
from service.auth.keys import Keys, Refusal
from service.endpoints import Scope as KeyScope
from service.endpoints import endpoint_of
from service.observability.metrics import Metrics
from service.rest.responses import error_response

PROBLEMS: dict[Refusal, tuple[HTTPStatus, str]] = {
    "missing": (HTTPStatus.UNAUTHORIZED, "missing-key"),
    "unknown": (HTTPStatus.UNAUTHORIZED, "unknown-key"),
    "scope": (HTTPStatus.FORBIDDEN, "other-scope"),
}
POLICY_VIOLATION = 1008  # close code of a WebSocket (RFC 6455, section 7.4.1)


class AuthMiddleware:
    """Pure ASGI middleware around the application."""

    def __init__(self, app: ASGIApp, known_keys: Keys, metrics: Metrics) -> None:
        self._app = app
        self._keys = known_keys
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it."""
        key_scope = None if scope["type"] == "lifespan" else endpoint_of(scope["path"]).scope
        if key_scope is None:
            await self._app(scope, receive, send)
            return

        header = next((value for name, value in scope["headers"] if name == b"authorization"), None)
        refusal = self._keys.refusal(header, key_scope)
        if refusal is not None:
            self._metrics.inc(keys.EVENT, refusal)
            error = _problem(refusal, scope["path"], key_scope)
            await error_response(error, scope["path"])(scope, receive, send)
            return

        if scope["type"] == "websocket":
            receive = self._receive_while_allowed(header, key_scope, receive, send)
        await self._app(scope, receive, send)

    def _receive_while_allowed(
        self, header: bytes | None, key_scope: KeyScope, receive: Receive, send: Send
    ) -> Receive:
        """Return a `receive` that closes a WebSocket once its key is not valid any more.

        A stream may stay for days; its key is looked at again with each message.
        """

        async def receive_while_allowed() -> Message:
            message = await receive()
            if message["type"] != "websocket.receive" or self._keys.allows(header, key_scope):
                return message

            reason = "the key is not valid any more"
            await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": reason})
            return {"type": "websocket.disconnect", "code": POLICY_VIOLATION}

        return receive_while_allowed


def _problem(refusal: Refusal, path: str, key_scope: KeyScope) -> ProblemError:
    """Return what a caller is told, whether by HTTP or in the handshake of a WebSocket."""
    status, name = PROBLEMS[refusal]
    return ProblemError(
        status,
        name,
        keys.describe(refusal, path, key_scope),
        headers=[(b"www-authenticate", keys.challenge(refusal, key_scope).encode())],
    )
