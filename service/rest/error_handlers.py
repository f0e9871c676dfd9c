"""How errors become responses: the application's error handlers, and what says "not found"."""

from http import HTTPStatus

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from service.api import hints, problems
from service.api.open_inference import protocol
from service.api.problems import ProblemError
from service.errors import ServiceError
from service.rest.open_inference import method_not_allowed, not_found
from service.rest.responses import error_response, is_open_inference

MAX_PATH_SHOWN = 200  # characters of a path in the text of an error


def add_error_handlers(app: FastAPI) -> None:
    """Let the application answer each error in the form of the endpoint that was asked."""
    app.add_exception_handler(ServiceError, _handle_service_error)
    app.add_exception_handler(HTTPException, _handle_http_exception)
    app.add_exception_handler(Exception, _handle_unforeseen_error)
    app.add_exception_handler(ClientDisconnect, _handle_disconnect)  # type: ignore[arg-type] # Starlette sends nothing for None


def not_found_response(request: Request) -> Response:
    """Return the answer to a request whose path is no endpoint's."""
    path = request.scope["path"]
    if is_open_inference(path):
        return error_response(not_found(path), path)

    detail = f"{_detail(request, HTTPStatus.NOT_FOUND)}{hints.of_path(path)}"
    return error_response(ProblemError(HTTPStatus.NOT_FOUND, "not-found", detail), path)


async def _handle_service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)  # noqa: S101 - registered for this class
    return error_response(error, request.scope["path"])


async def _handle_http_exception(request: Request, error: Exception) -> Response:
    """Answer what Starlette refuses by itself: a path that is not found, another method."""
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this class
    path = request.scope["path"]
    status = HTTPStatus(error.status_code)
    headers = error.headers or {}
    if status == HTTPStatus.NOT_FOUND:
        return not_found_response(request)
    if is_open_inference(path) and "Allow" in headers:
        return error_response(
            method_not_allowed(request.method, request.url.path, headers["Allow"]), path
        )

    name = status.phrase.lower().replace(" ", "-")
    raw_headers = [
        (key.lower().encode("latin-1"), value.encode("latin-1")) for key, value in headers.items()
    ]
    detail = _detail(request, status, headers.get("Allow"))
    return error_response(ProblemError(status, name, detail, headers=raw_headers), path)


async def _handle_unforeseen_error(request: Request, _: Exception) -> Response:
    """Answer that the service failed. Starlette raises the error again, and it is logged."""
    path = request.scope["path"]
    error: ServiceError = problems.internal_error()
    if is_open_inference(path):
        error = protocol.internal_error()
    return error_response(error, path)


async def _handle_disconnect(_: Request, __: Exception) -> None:
    """Send nothing: the client has gone, and that is no failure of the service."""


def _detail(request: Request, status: HTTPStatus, allowed: str | None = None) -> str:
    path = request.url.path[:MAX_PATH_SHOWN]
    reason = f"only {allowed} is answered here" if allowed else status.description or status.phrase
    return f"{request.method} {path}: {reason}"
