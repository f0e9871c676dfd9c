"""What HTTP, WebSocket and TLS have in common here: requests to bytes, received bytes to replies.

No protocol does input or output of its own, so both clients use the same ones.
"""

from collections import deque
from typing import Literal, NamedTuple, Protocol

Transport = Literal["http", "stream"]

# The endpoints that a client calls, as the request line begins.
ACT = "POST /act"
ACT_BATCH = "POST /act/batch"
MODEL = "GET /model"
READY = "GET /health/ready"


class Request(NamedTuple):
    """What is sent for one call."""

    endpoint: str
    body: bytes
    seq: int | None  # that the answer must echo
    body_limit: int  # bytes that the answer's body may have


class Reply(NamedTuple):
    """One message of the service."""

    status: int  # of HTTP; 0 on a stream, where the message itself says it
    body: bytes


class ConnectionProtocol(Protocol):
    """The protocol of one connection."""

    is_open: bool  # whether requests may be sent
    is_closing: bool  # whether the service ends this connection
    replies: deque[Reply]  # whole replies that nobody has looked at yet

    def hello(self) -> bytes:
        """Return what opens the connection, if anything."""
        ...

    def request(self, request: Request) -> bytes:
        """Return the bytes of a request. Raises `ProtocolError` where none can be sent."""
        ...

    def receive(self, data: bytes) -> bytes:
        """Take in bytes; return what must be sent back at once. Raises `ProtocolError`."""
        ...

    def receive_end(self) -> None:
        """Take in that the peer has sent its last byte."""
        ...
