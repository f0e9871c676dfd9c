"""Wires: bytes in and out of HTTP/1.1 and WebSocket (RFC 9112, RFC 6455), as much of both as the service speaks. No input or output here.

Chunked answers, redirects, compression and extensions are not spoken: the service uses none of them.
"""

import base64
import hashlib
import os
from collections import deque
from typing import Literal, NamedTuple, Protocol

Transport = Literal["http", "stream"]

HEAD_LIMIT = 16_384  # bytes that a response's head may have
BODY_LIMIT = 16_777_216  # bytes that an answer may have: a batch of 10,000 states has 1.5 MB
GREETING = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3
TEXT, CLOSE, PING, PONG = 0x1, 0x8, 0x9, 0xA


class WireError(Exception):
    """Raised when what came is not of the protocol: nothing that follows it on the connection can be trusted."""


class DeniedError(WireError):
    """Raised when the service does not open a channel to this client's key."""


class Reply(NamedTuple):
    """One message of the service."""

    status: int  # of HTTP; 0 on a stream, where the message itself says it
    body: bytes


class Wire(Protocol):
    """One connection's protocol: what to send, and what the received bytes mean."""

    opened: bool  # whether requests may be sent
    closing: bool  # whether the service ends this connection
    replies: deque[Reply]

    def hello(self) -> bytes:
        """Return what opens the channel, if anything."""
        ...

    def request(self, body: bytes) -> bytes:
        """Return the bytes that ask about one state."""
        ...

    def other(self, method: str, path: str, body: bytes = b"") -> bytes:
        """Return the bytes of a request to another door, where the protocol has others."""
        ...

    def receive(self, data: bytes) -> bytes:
        """Take in bytes; return what must be sent back at once. Raises `WireError`."""
        ...


class HttpWire:
    """HTTP/1.1, one request after another on a connection that stays."""

    def __init__(self, host: str, key: str | None) -> None:
        self.opened = True
        self.closing = False
        self.replies: deque[Reply] = deque()
        fields = f"Host: {host}\r\n" + (
            f"Authorization: Bearer {key}\r\n" if key is not None else ""
        )
        self._fields = fields.encode("latin-1")
        self._act = (
            b"POST /act HTTP/1.1\r\n"
            + self._fields
            + b"Content-Type: application/json\r\nContent-Length: "
        )
        self._buffer = b""

    def hello(self) -> bytes:
        """Return nothing: HTTP needs no greeting."""
        return b""

    def request(self, body: bytes) -> bytes:
        """Return `POST /act`."""
        return b"%b%d\r\n\r\n%b" % (self._act, len(body), body)

    def other(self, method: str, path: str, body: bytes = b"") -> bytes:
        """Return a request to another door."""
        content = (
            b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(body) if body else b""
        )
        return b"%b %b HTTP/1.1\r\n%b%b\r\n%b" % (
            method.encode(),
            path.encode(),
            self._fields,
            content,
            body,
        )

    def receive(self, data: bytes) -> bytes:
        """Take in bytes. Raises `WireError` for what is not HTTP, and for what is above the limits."""
        buffer = self._buffer + data if self._buffer else data
        while buffer:
            end = buffer.find(b"\r\n\r\n")
            if end < 0:
                if len(buffer) > HEAD_LIMIT or not b"HTTP/1.1 ".startswith(buffer[:9]):
                    raise WireError("the answer is not HTTP/1.1")
                break
            status, length, closing = _head(buffer[:end])
            if len(buffer) < end + 4 + length:
                break
            self.closing = self.closing or closing
            self.replies.append(Reply(status, buffer[end + 4 : end + 4 + length]))
            buffer = buffer[end + 4 + length :]
        self._buffer = buffer
        return b""


def _head(head: bytes) -> tuple[int, int, bool]:
    """Return a response's status, its body's length in bytes, and whether the connection ends with it. Raises `WireError`."""
    if not head.startswith(b"HTTP/1.1 ") or not head[9:12].isdigit():
        raise WireError("the answer is not HTTP/1.1")
    lower = head.lower()
    # Found, not split: an answer of 200 bytes should not cost more to take apart than to send.
    if b"\r\ntransfer-encoding:" in lower:
        raise WireError("the answer is chunked, which this client does not speak")
    digits = _field(lower, b"\r\ncontent-length:")
    if digits is None:
        raise WireError("the answer has no Content-Length")
    if not digits.isdigit() or len(digits) > len(str(BODY_LIMIT)) or int(digits) > BODY_LIMIT:
        raise WireError(f"the answer's length is {digits[:20]!r}, expected at most {BODY_LIMIT}")
    connection = _field(lower, b"\r\nconnection:")
    return int(head[9:12]), int(digits), connection is not None and b"close" in connection


def _field(head: bytes, name: bytes) -> bytes | None:
    start = head.find(name)
    if start < 0:
        return None
    start += len(name)
    end = head.find(b"\r", start)
    return head[start : end if end >= 0 else len(head)].strip()


class StreamWire:
    """WebSocket: the channel of a control loop."""

    def __init__(self, host: str, key: str | None) -> None:
        self.opened = False
        self.closing = False
        self.replies: deque[Reply] = deque()
        self._nonce = base64.b64encode(os.urandom(16))
        fields = f"GET /act/stream HTTP/1.1\r\nHost: {host}\r\n" + (
            f"Authorization: Bearer {key}\r\n" if key is not None else ""
        )
        self._hello = (
            fields.encode("latin-1")
            + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "
            + self._nonce
            + b"\r\n\r\n"
        )
        self._buffer = b""

    def hello(self) -> bytes:
        """Return the opening handshake."""
        return self._hello

    def request(self, body: bytes) -> bytes:
        """Return a text message."""
        return _masked(TEXT, body)

    def other(self, method: str, path: str, body: bytes = b"") -> bytes:  # noqa: ARG002 - the protocol's signature
        """Raise: a client with streams has connections of their own for other doors."""
        raise AssertionError("a stream has no other doors")

    def receive(self, data: bytes) -> bytes:
        """Take in bytes; return the pongs that are due. Raises `WireError` for what is no WebSocket of this service."""
        self._buffer += data
        if not self.opened and not self._open():
            return b""
        back = b""
        while (frame := self._frame()) is not None:
            opcode, payload = frame
            match opcode:
                case 0x81:
                    self.replies.append(Reply(0, payload))
                case 0x89:
                    back += _masked(PONG, payload)
                case 0x8A:
                    pass
                case 0x88:
                    self.closing = True
                case _:
                    raise WireError(
                        f"a frame begins with {opcode:#04x}, which this service does not send"
                    )
        return back

    def _open(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > HEAD_LIMIT or not b"HTTP/1.1 ".startswith(self._buffer[:9]):
                raise WireError("the answer to the handshake is not HTTP/1.1")
            return False
        first, *lines = self._buffer[:end].split(b"\r\n")
        if not first.startswith(b"HTTP/1.1 101"):
            denied = first[9:12] in (b"401", b"403")
            raise (DeniedError if denied else WireError)(
                f"the stream was not opened: {first[9:60].decode('latin-1')}"
            )
        fields = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(b":") for line in lines)
        }
        # SHA-1 is what RFC 6455 asks for: it proves that a WebSocket server answered, and protects nothing.
        proof = base64.b64encode(
            hashlib.sha1(self._nonce + GREETING, usedforsecurity=False).digest()
        )
        if fields.get(b"sec-websocket-accept") != proof:
            raise WireError("the stream was opened with another client's key")
        self._buffer = self._buffer[end + 4 :]
        self.opened = True
        return True

    def _frame(self) -> tuple[int, bytes] | None:
        """Return the first byte and the payload of the next whole frame."""
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        size, start = (
            buffer[1],
            2,
        )  # a server's frames are not masked, so the mask bit makes this too large
        if size == 126:
            size, start = int.from_bytes(buffer[2:4]), 4
        elif size == 127:
            size, start = int.from_bytes(buffer[2:10]), 10
        elif size > 127:
            raise WireError("a frame is masked")
        if size > BODY_LIMIT and len(buffer) >= start:
            raise WireError(f"a message has {size} bytes, expected at most {BODY_LIMIT}")
        if len(buffer) < start + size:
            return None
        self._buffer = buffer[start + size :]
        return buffer[0], buffer[start : start + size]


def _masked(opcode: int, payload: bytes) -> bytes:
    """Return a client's frame. The mask keeps a page from writing bytes of its choice through old proxies; XOR of whole numbers is fast."""
    size = len(payload)
    if size < 126:
        head = bytes((0x80 | opcode, 0x80 | size))
    elif size < 65_536:
        head = bytes((0x80 | opcode, 0xFE)) + size.to_bytes(2)
    else:
        head = bytes((0x80 | opcode, 0xFF)) + size.to_bytes(8)
    mask = os.urandom(4)
    repeated = (mask * (size // 4 + 1))[:size]
    return head + mask + (int.from_bytes(payload) ^ int.from_bytes(repeated)).to_bytes(size)
