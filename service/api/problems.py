"""Problems: what went wrong in, an RFC 9457 document out. The one place that turns a failure into words for a caller."""

import json
from collections.abc import Sequence
from http import HTTPStatus
from urllib.parse import quote

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from service.api.schemas import FieldError, Problem

RawHeader = tuple[bytes, bytes]  # as ASGI has it: the name in small letters

MEDIA_TYPE = "application/problem+json"
ERRORS_SHOWN = 10  # a batch can be wrong in forty thousand places
FOUND_CHARACTERS = 60


class ProblemError(Exception):
    """Raised where a request cannot be answered; holds what the caller is told."""

    def __init__(
        self,
        status: HTTPStatus,
        kind: str,
        detail: str,
        errors: list[FieldError] | None = None,
        headers: Sequence[RawHeader] = (),
    ):
        super().__init__(detail)
        self.status = status
        self.headers = headers
        self.problem = Problem(
            type=f"urn:upright:problem:{kind}",
            title=kind.replace("-", " "),
            status=status,
            detail=detail,
            errors=errors or [],
        )

    @property
    def body(self) -> bytes:
        """The problem as JSON."""
        return self.problem.model_dump_json().encode()


def invalid_body(error: ValidationError) -> ProblemError:
    """Return the problem of a body that is no JSON (400) or not of the schema (422), naming each bad part and what was found there."""
    details = error.errors(include_url=False)
    if details[0]["type"] == "json_invalid":
        return ProblemError(
            HTTPStatus.BAD_REQUEST,
            "not-json",
            f"The body is not JSON: {details[0]['ctx']['error']}",
        )
    errors = [
        FieldError(pointer=_pointer(detail), detail=_explain(detail))
        for detail in details[:ERRORS_SHOWN]
    ]
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    return ProblemError(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "invalid-request",
        f"{errors[0].pointer}: {errors[0].detail}{more}",
        errors,
    )


def body_too_large(limit: int) -> ProblemError:
    """Return the problem of a body above the door's limit, in bytes."""
    return ProblemError(
        HTTPStatus(413),
        "body-too-large",
        f"The body has more than the {limit} bytes that this door takes",
    )


def internal_error() -> ProblemError:
    """Return the problem of an error that nobody foresaw; the server logs it with its traceback."""
    detail = "The service failed to answer; its log says why under this request's X-Request-ID"
    return ProblemError(HTTPStatus.INTERNAL_SERVER_ERROR, "internal-error", detail)


def too_busy() -> ProblemError:
    """Return the problem of a request that comes while as many as may be are under way."""
    detail = "As many requests as this service takes at once are under way; try again in a second"
    return ProblemError(
        HTTPStatus.SERVICE_UNAVAILABLE, "too-busy", detail, headers=[(b"retry-after", b"1")]
    )


def not_ready(why: str) -> ProblemError:
    """Return the problem of a service that answers, but asks not to be sent more."""
    return ProblemError(
        HTTPStatus.SERVICE_UNAVAILABLE, "not-ready", why, headers=[(b"retry-after", b"1")]
    )


def ending() -> ProblemError:
    """Return the problem of a request that had not come whole when the service ended."""
    detail = "The service ended before this request had come; send it again"
    return ProblemError(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "ending",
        detail,
        headers=[(b"retry-after", b"1"), (b"connection", b"close")],
    )


def too_slow(part: str) -> ProblemError:
    """Return the problem of a request whose `part`, head or body, did not come in time."""
    return ProblemError(
        HTTPStatus.REQUEST_TIMEOUT, "too-slow", f"The request's {part} did not come in time"
    )


def too_fast(rate: int) -> ProblemError:
    """Return the problem of a message that is one too many in its second."""
    return ProblemError(
        HTTPStatus.TOO_MANY_REQUESTS,
        "too-fast",
        f"A stream may ask {rate} times a second; this message got no action",
    )


def upgrade_required(path: str) -> ProblemError:
    """Return the problem of a request over plain HTTP where only a WebSocket is answered."""
    detail = f"{path} is a WebSocket: connect to it by a library for WebSockets, or POST each state to /act"
    headers = [(b"upgrade", b"websocket"), (b"connection", b"upgrade")]
    return ProblemError(HTTPStatus.UPGRADE_REQUIRED, "upgrade-required", detail, headers=headers)


def head_too_large(size: int, lines: int) -> ProblemError:
    """Return the problem of a request that has more than its body, or more header lines, than it may have."""
    detail = f"A request may have {size} bytes beside its body, and {lines} header lines"
    return ProblemError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "head-too-large", detail)


def not_http(why: str) -> ProblemError:
    """Return the problem of bytes that are no HTTP."""
    return ProblemError(HTTPStatus.BAD_REQUEST, "not-http", why)


def _pointer(detail: ErrorDetails) -> str:
    escaped = (
        str(part)[:FOUND_CHARACTERS].replace("~", "~0").replace("/", "~1") for part in detail["loc"]
    )
    return "#" + "".join(f"/{quote(part, safe='~')}" for part in escaped)


def _explain(detail: ErrorDetails) -> str:
    found = json.dumps(detail["input"], ensure_ascii=False, default=repr)
    found = found if len(found) <= FOUND_CHARACTERS else f"{found[:FOUND_CHARACTERS]}…"
    match detail["type"]:
        case "missing":
            return (
                "a number is missing here"
                if isinstance(detail["loc"][-1], int)
                else "this field is missing"
            )
        case "extra_forbidden":
            return "there is no field of this name"
        case "finite_number" | "greater_than" | "less_than":
            return f"must be a number that is finite as a 32-bit float, not {found}"
        case "too_long":
            return f"must hold {detail['ctx']['max_length']} numbers, not more: {found}"
        case _:
            return f"{detail['msg'][0].lower()}{detail['msg'][1:]}, not {found}"
