"""Bodies: what an ASGI server receives in pieces in, the bytes of a request's body out, up to a limit."""

from starlette.requests import Request
from starlette.types import Receive

from service.api.problems import body_too_large

DRAINED = (
    1 << 24
)  # bytes of a refused body that are still taken: a client that only then reads would find its connection reset


class ClientGoneError(Exception):
    """Raised when the client goes away before its body has come: there is nobody to answer."""


async def read(request: Request, limit: int) -> bytes:
    """Return the request's body. Raises `ProblemError` once it is known to be above `limit` bytes, and `ClientGoneError`."""
    receive = request.receive
    if _number(request.headers.get("content-length", "")) > limit:
        await _drain(receive)
        raise body_too_large(limit)
    pieces = bytearray()
    more = True
    while more and len(pieces) <= limit:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientGoneError
        pieces += message.get("body", b"")
        more = message.get("more_body", False)
    if len(pieces) > limit:
        if more:
            await _drain(receive)
        raise body_too_large(limit)
    return bytes(pieces)


async def _drain(receive: Receive) -> None:
    """Take and forget the rest of a body, up to a bound."""
    taken = 0
    while taken < DRAINED:
        message = await receive()
        taken += len(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body", False):
            return


def _number(declared: str) -> int:
    """Return the length that was declared, 0 if it is no number: the body itself is counted in any case."""
    return int(declared[:20]) if declared.isascii() and declared[:20].isdigit() else 0
