"""Middleware that answers whatever path is not in the table of endpoints."""

from http import HTTPStatus

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.problems import ProblemError
from service.endpoints import find_endpoint
from service.rest.error_handlers import MAX_PATH_SHOWN, not_found_response
from service.rest.responses import error_response
from service.rest.stream import PATH as STREAM_PATH


class KnownEndpointsMiddleware:
    """Passes only those requests on whose path is in the table of endpoints.

    Keys are asked for by the table. The router's own patterns are looser: they also match a path
    with a line end behind it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer that there is no such endpoint."""
        if scope["type"] == "lifespan":
            is_known = True
        elif scope["type"] == "websocket":
            is_known = scope["path"] == STREAM_PATH
        else:
            is_known = find_endpoint(scope["path"]) is not None

        if is_known:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await error_response(_no_websocket(scope["path"]), scope["path"])(scope, receive, send)
        else:
            await not_found_response(Request(scope))(scope, receive, send)


def _no_websocket(path: str) -> ProblemError:
    return ProblemError(
        HTTPStatus.NOT_FOUND,
        "not-found",
        f"There is no WebSocket at {path[:MAX_PATH_SHOWN]}; the one of this service is"
        f" {STREAM_PATH}",
    )
