"""The limit: what uvicorn alone costs.

Reads the body and sends fixed bytes, as many as the service's, with two headers.
"""

import os
from typing import Any

BODY = os.environ["ANSWER"].encode()
HEADERS = [(b"content-length", b"%d" % len(BODY)), (b"content-type", b"application/json")]


async def app(_: Any, receive: Any, send: Any) -> None:
    """Answer any request with the same bytes."""
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})
