"""Reading a request's body, up to a limit."""

from collections.abc import AsyncIterator
from contextlib import suppress

from starlette.requests import ClientDisconnect, Request

from service.api.problems import body_too_large, unsupported_encoding

# Bytes of a refused body that are still read. A client that reads only when it has sent all would
# otherwise find its connection reset in place of an answer.
MAX_DISCARDED = 1 << 24


async def read_body(request: Request, limit: int, *, reads_encodings: bool = False) -> bytes:
    """Return the request's body, of at most `limit` bytes.

    A `Content-Encoding` is refused, unless the caller `reads_encodings` itself.

    Raises `ProblemError` once it is known to be larger, and Starlette's `ClientDisconnect` when the
    client goes away before its body has come.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "") and not reads_encodings:
        raise unsupported_encoding(encoding)

    chunks = request.stream()
    if _declared_length(request) > limit:
        if not _waits_to_be_asked(request):
            await _discard(chunks)
        raise body_too_large(limit)

    body = bytearray()
    async for chunk in chunks:
        body += chunk
        if len(body) > limit:
            await _discard(chunks)
            raise body_too_large(limit)
    return bytes(body)


async def _discard(chunks: AsyncIterator[bytes]) -> None:
    """Read the rest of a body and forget it, up to a bound."""
    discarded = 0
    with suppress(ClientDisconnect):  # the answer goes to nobody, but it is counted
        async for chunk in chunks:
            discarded += len(chunk)
            if discarded >= MAX_DISCARDED:
                return


def _waits_to_be_asked(request: Request) -> bool:
    """Return whether the client sends its body only when it is told to go on."""
    return request.headers.get("expect", "").strip().lower() == "100-continue"


def _declared_length(request: Request) -> int:
    """Return the `Content-Length`, or 0 if it is no number: the body is counted in any case."""
    length = request.headers.get("content-length", "")[:20]
    return int(length) if length.isascii() and length.isdigit() else 0
