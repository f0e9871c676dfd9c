"""Bodies: what an ASGI server receives in pieces in, the bytes of a request's body out, up to a limit."""

from starlette.requests import Request
from starlette.types import Message, Receive

from service.problems import body_too_large

DRAINED = 1 << 24  # bytes of a refused body that are still taken: a client that only then reads would find its connection reset
SHORT = 3  # digits of a declared length that is not worth looking at: so few bytes are counted as they come


class ClientGoneError(Exception):
    """Raised when the client goes away before its body has come: there is nobody to answer."""


async def read_body(receive: Receive, declared: bytes | None, limit: int) -> bytes:
    """Return the body, whose head `declared` a length or none. Raises `ProblemError` once it is known to be above `limit` bytes."""
    if declared is not None and len(declared) > SHORT and _number(declared) > limit:
        await _drain(receive)
        raise body_too_large(limit)
    message = await receive()
    body: bytes = message.get("body", b"")
    if message.get("more_body", False) or message["type"] != "http.request":
        body = await _read_pieces(message, receive, limit)
    if len(body) > limit:
        if message.get("more_body", False):
            await _drain(receive)
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


async def read(request: Request, limit: int) -> bytes:
    """Return a request's body as `read_body` does."""
    declared = request.headers.get("content-length")
    return await read_body(request.receive, None if declared is None else declared.encode("latin-1"), limit)


async def _drain(receive: Receive) -> None:
    """Take and forget the rest of a body, up to a bound."""
    taken = 0
    while taken < DRAINED:
        message = await receive()
        taken += len(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body", False):
            return


def _number(declared: bytes) -> int:
    """Return the length that was declared, 0 if it is no number: the body itself is counted in any case."""
    return int(declared[:20]) if declared[:20].isdigit() else 0
