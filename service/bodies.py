"""Bodies: a request in, its bytes out, up to a limit. Knows nothing of what they mean."""

from starlette.requests import Request

from service import problems


async def read(request: Request, limit: int) -> bytes:
    """Return the body. Raises `ProblemError` as soon as it is known to be above `limit` bytes."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise problems.body_too_large(limit)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise problems.body_too_large(limit)
    return bytes(body)
