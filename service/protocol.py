"""Protocol: uvicorn's own for HTTP, but that an answer leaves in one system call. Knows nothing of what is asked or answered.

uvicorn writes the head, then the body, and each goes to the kernel at once: two system calls, and a client that is woken twice.
Here the head waits for its body.
"""

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class OneWriteProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol on a transport that gathers an answer."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection."""
        self._gathering = Gathering(cast(asyncio.Transport, transport))
        super().connection_made(cast(asyncio.Transport, self._gathering))

    def on_response_complete(self) -> None:
        """Write a head that no body followed."""
        self._gathering.flush()
        super().on_response_complete()


class Gathering:
    """A transport that holds back the head of an answer of known length, which a body follows in a moment, until it does."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._held = b""
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        """Write, or hold back what begins an answer."""
        if self._held:
            data, self._held = self._held + data, b""
        elif data.startswith(b"HTTP/1.1 ") and b"content-length: " in data:
            self._held = data
            return
        self._transport.write(data)

    def flush(self) -> None:
        """Write what is held back."""
        if self._held:
            held, self._held = self._held, b""
            self._transport.write(held)

    def close(self) -> None:
        """Close after what was held back is written."""
        self.flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
