"""Middleware that answers whatever path is not in the table of endpoints."""

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from service.endpoints import find_endpoint
from service.rest.error_handlers import not_found_response


class KnownEndpointsMiddleware:
    """Passes only those requests on whose path is in the table of endpoints.

    Keys are asked for by the table. The router's own patterns are looser: they also match a path
    with a line end behind it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer that there is no such endpoint."""
        if scope["type"] == "lifespan" or find_endpoint(scope["path"]) is not None:
            await self._app(scope, receive, send)
        else:
            response = not_found_response(HTTPConnection(scope))
            await response(scope, receive, send)
