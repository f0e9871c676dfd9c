"""Bodies: what an ASGI server receives in pieces in, the bytes of a request's body out, up to a limit."""

from starlette.types import Message, Receive

from service.problems import body_too_large

SHORT = 3  # digits of a declared length that is not worth looking at: so few bytes are counted as they come


class ClientGoneError(Exception):
    """Raised when the client goes away before its body has come: there is nobody to answer."""


async def read_body(receive: Receive, declared: bytes | None, limit: int) -> bytes:
    """Return the body, whose head `declared` a length or none. Raises `ProblemError` once it is known to be above `limit` bytes."""
    if declared is not None and len(declared) > SHORT and _number(declared) > limit:
        raise body_too_large(limit)
    message = await receive()
    body: bytes = message.get("body", b"")
    if message.get("more_body", False) or message["type"] != "http.request":
        body = await _read_pieces(message, receive, limit)
    if len(body) > limit:
        raise body_too_large(limit)
    return body


async def _read_pieces(message: Message, receive: Receive, limit: int) -> bytes:
    pieces = bytearray()
    while message["type"] == "http.request":
        pieces += message.get("body", b"")
        if len(pieces) > limit or not message.get("more_body", False):
            return bytes(pieces)
        message = await receive()
    raise ClientGoneError


def _number(declared: bytes) -> int:
    """Return the length that was declared, 0 if it is no number: the body itself is counted in any case."""
    return int(declared[:20]) if declared[:20].isdigit() else 0
