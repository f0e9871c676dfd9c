"""Problems (RFC 9457): what a caller is told when the service's own endpoints cannot answer.

The types are part of the public API; docs/api.md lists them.
"""

import codecs
import json
from collections.abc import Collection, Mapping, Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from pydantic import ValidationError
from pydantic_core import ErrorDetails, to_json

from service.api import hints
from service.api.schemas import FieldError, Problem
from service.endpoints import OPEN_INFERENCE_PREFIX
from service.errors import ServiceError
from service.types import Body, RawHeader

BYTE_ORDER_MARK = codecs.BOM_UTF8
BYTE_ORDER_MARK_DETAIL = (
    "The body begins with a UTF-8 byte order mark, which JSON has not (RFC 8259, 8.1)"
)
MEDIA_TYPE = "application/problem+json"
JSON = "application/json"
MAX_ERRORS_SHOWN = 10  # a batch can be wrong in forty thousand places
MAX_CHARACTERS_SHOWN = 60  # of a value or a name that came with the request
RETRY_AFTER: RawHeader = (b"retry-after", b"1")  # seconds


class ProblemError(ServiceError):
    """Raised when a request to one of the service's own endpoints cannot be answered."""

    def __init__(
        self,
        status: HTTPStatus,
        name: str,
        detail: str,
        errors: list[FieldError] | None = None,
        headers: Sequence[RawHeader] = (),
    ) -> None:
        """Describe the problem; `name` is the end of its type: words joined by dashes."""
        super().__init__(status, detail, headers)
        self.problem = Problem(
            type=f"urn:upright:problem:{name}",
            title=name.replace("-", " "),
            status=status,
            detail=detail,
            errors=errors or [],
        )

    @property
    def body(self) -> bytes:
        """The problem as JSON."""
        return self.problem.model_dump_json().encode()


def render(error: ServiceError, label: str) -> tuple[bytes, str]:
    """Return the content and the media type by which the endpoint of a label tells an error."""
    if isinstance(error, ProblemError) and label != OPEN_INFERENCE_PREFIX:
        return error.body, MEDIA_TYPE
    return to_json({"error": str(error)}), JSON


def unknown_field(name: str, known: Collection[str]) -> ProblemError:
    """Return the problem of a body with a field that its schema does not have."""
    shown = name[:MAX_CHARACTERS_SHOWN]
    pointer = _pointer({"loc": (shown,)})
    error = FieldError(pointer=pointer, detail=f"is no field; there are {', '.join(known)}")
    return ProblemError(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "invalid-request",
        f"{error.pointer}: {error.detail}",
        [error],
    )


def unsupported_encoding(encoding: str) -> ProblemError:
    """Return the problem of a body whose `Content-Encoding` is not read here."""
    return ProblemError(
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        "unsupported-encoding",
        f"A body with Content-Encoding {encoding[:MAX_CHARACTERS_SHOWN]!r} is not read here; send"
        " it as it is",
    )


def invalid_body(error: ValidationError, body: Body) -> ProblemError:
    """Return the problem of a body that is no JSON (400) or not of the schema (422).

    Of a body that is not of the schema, each bad part is named with what came in its place.
    """
    details = error.errors(include_url=False)
    if bytes(body[: len(BYTE_ORDER_MARK)]) == BYTE_ORDER_MARK:
        return ProblemError(
            HTTPStatus.BAD_REQUEST,
            "not-json",
            BYTE_ORDER_MARK_DETAIL,
        )
    if details[0]["type"] == "json_invalid":
        return ProblemError(
            HTTPStatus.BAD_REQUEST,
            "not-json",
            f"The body is not JSON: {details[0]['ctx']['error']}{hints.of_text(body)}",
        )

    errors = [
        FieldError(pointer=_pointer(detail), detail=_explain(detail))
        for detail in details[:MAX_ERRORS_SHOWN]
    ]
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    return ProblemError(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "invalid-request",
        f"{errors[0].pointer}: {errors[0].detail}{more}{hints.of_values(details, error.title)}",
        errors,
    )


def body_too_large(limit: int) -> ProblemError:
    """Return the problem of a body above the endpoint's limit, in bytes."""
    detail = f"The body has more than the {limit} bytes that this endpoint takes"
    return ProblemError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body-too-large", detail)


def internal_error() -> ProblemError:
    """Return the problem of an unforeseen error; the service logs it with its traceback."""
    detail = "The service failed to answer; its log says why under this request's X-Request-ID"
    return ProblemError(HTTPStatus.INTERNAL_SERVER_ERROR, "internal-error", detail)


def too_busy() -> ProblemError:
    """Return the problem of a request that comes at the limit of concurrent requests."""
    detail = "As many requests as this service takes at once are in flight; try again in a second"
    return ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, "too-busy", detail, headers=[RETRY_AFTER])


def not_ready(detail: str) -> ProblemError:
    """Return the problem of a service that answers, but asks not to be sent more."""
    return ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, "not-ready", detail, headers=[RETRY_AFTER])


def ending() -> ProblemError:
    """Return the problem of a request that had not come whole when the service ended."""
    detail = "The service ended before this request had come; send it again"
    headers = [RETRY_AFTER, (b"connection", b"close")]
    return ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, "ending", detail, headers=headers)


def too_slow(part: str) -> ProblemError:
    """Return the problem of a request whose `part`, headers or body, did not come in time."""
    detail = f"The request's {part} did not come in time"
    return ProblemError(HTTPStatus.REQUEST_TIMEOUT, "too-slow", detail)


def too_fast(rate: int) -> ProblemError:
    """Return the problem of a message above a stream's rate, in messages a second."""
    detail = f"A stream may ask {rate} times a second; this message got no action"
    return ProblemError(HTTPStatus.TOO_MANY_REQUESTS, "too-fast", detail)


def upgrade_required(path: str) -> ProblemError:
    """Return the problem of a request over plain HTTP where only a WebSocket is answered."""
    detail = (
        f"{path} is a WebSocket: connect to it by a library for WebSockets, "
        "or POST each state to /act"
    )
    headers = [(b"upgrade", b"websocket"), (b"connection", b"upgrade")]
    return ProblemError(HTTPStatus.UPGRADE_REQUIRED, "upgrade-required", detail, headers=headers)


def headers_too_large(size: int, lines: int) -> ProblemError:
    """Return the problem of a request above the limits on bytes beside the body and on headers."""
    detail = f"A request may have {size} bytes beside its body, and {lines} header lines"
    return ProblemError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "headers-too-large", detail)


def not_http(detail: str) -> ProblemError:
    """Return the problem of bytes that are no HTTP."""
    return ProblemError(HTTPStatus.BAD_REQUEST, "not-http", detail)


def _pointer(detail: Mapping[str, Any]) -> str:
    """Return the JSON pointer (RFC 6901) to what is wrong, as a URI fragment."""
    escaped = (
        str(part)[:MAX_CHARACTERS_SHOWN].replace("~", "~0").replace("/", "~1")
        for part in detail["loc"]
    )
    return "#" + "".join(f"/{quote(part, safe='~')}" for part in escaped)


def _explain(detail: ErrorDetails) -> str:
    value = _beginning(detail["input"])
    match detail["type"]:
        case "missing":
            is_number = isinstance(detail["loc"][-1], int)
            return "a number is missing here" if is_number else "this field is missing"
        case "extra_forbidden":
            return "there is no field of this name"
        case "finite_number" | "greater_than" | "less_than":
            return f"must be a number that is finite as a 32-bit float, not {value}"
        case "too_short":
            return f"must hold at least {detail['ctx']['min_length']}, not {value}"
        case "too_long":
            return f"must hold {detail['ctx']['max_length']} numbers, not more: {value}"
        case _:
            return f"{detail['msg'][0].lower()}{detail['msg'][1:]}, not {value}"


def _beginning(value: object) -> str:
    """Return a value as JSON, or the first part of it: it can be as large as the whole body."""
    text = ""
    for part in json.JSONEncoder(ensure_ascii=False, default=repr).iterencode(value):
        text += part
        if len(text) > MAX_CHARACTERS_SHOWN:
            return f"{text[:MAX_CHARACTERS_SHOWN]}…"
    return text
