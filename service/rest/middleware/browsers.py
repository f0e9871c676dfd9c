"""Middleware that refuses what a web page of another origin makes a browser send."""

from http import HTTPStatus

from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.problems import ProblemError
from service.auth.browsers import AllowedHosts, is_foreign
from service.endpoints import endpoint_of
from service.rest.responses import error_response
from service.settings import Settings

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
MAX_SHOWN = 100  # characters of a header in the text of an error


class BrowserMiddleware:
    """Checks `Host`, and for streams and for what changes the service also `Origin`."""

    def __init__(self, app: ASGIApp, settings: Settings, allowed_hosts: AllowedHosts) -> None:
        self._app = app
        self._origins = settings.cors_origin
        self._allowed_hosts = allowed_hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it."""
        problem = None if scope["type"] == "lifespan" else self._problem(scope)
        if problem is None:
            await self._app(scope, receive, send)
        else:
            await error_response(problem, scope["path"])(scope, receive, send)

    def _problem(self, scope: Scope) -> ProblemError | None:
        # Of a header that comes twice the first one counts.
        headers = dict(scope["headers"][::-1])
        host = headers.get(b"host")  # HTTP/1.0 may lack it; a browser never does
        server = scope.get("server")
        is_unix_socket = server is not None and server[1] is None  # which no browser reaches
        if host is not None and not is_unix_socket and not self._allowed_hosts.allows(host):
            return _misdirected(host)
        if _is_guarded(scope) and is_foreign(headers, self._origins):
            return _other_origin(headers.get(b"origin"))
        return None


def _is_guarded(scope: Scope) -> bool:
    """Return whether only pages of the service's own and allowed ones may send the request."""
    if scope["type"] == "websocket":  # browsers let every page open one, and read what comes
        return True
    return scope["method"] not in SAFE_METHODS and endpoint_of(scope["path"]).scope == "admin"


def _misdirected(host: bytes) -> ProblemError:
    return ProblemError(
        HTTPStatus.MISDIRECTED_REQUEST,
        "misdirected",
        f"The service is not called {_shown(host)}; --allowed-host names what it is called",
    )


def _other_origin(origin: bytes | None) -> ProblemError:
    page = "a page of another origin" if origin is None else f"a page of {_shown(origin)}"
    return ProblemError(
        HTTPStatus.FORBIDDEN,
        "other-origin",
        f"This is not answered to {page}; --cors-origin names those that may call",
    )


def _shown(header: bytes) -> str:
    return repr(header.decode("latin-1")[:MAX_SHOWN])
