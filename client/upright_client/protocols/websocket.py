"""WebSocket (RFC 6455) as a client speaks it, without extensions: the channel of a control loop."""

import base64
import hashlib
import json
import os
from collections import deque
from contextlib import suppress

from upright_client.errors import AccessDeniedError, ProtocolError
from upright_client.protocols.http11 import (
    DEFAULT_BODY_LIMIT,
    INTERIM_LIMIT,
    Http11Protocol,
    ResponseHead,
    parse_head,
    take_head,
    upgrade_request,
)
from upright_client.protocols.protocol import Reply, Request
from upright_client.text import printable

ACCEPT_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3
CONTINUATION, TEXT, CLOSE, PING, PONG = 0x0, 0x1, 0x8, 0x9, 0xA  # section 5.2
FRAME_LIMIT = 256  # frames that may come at once: one answer is awaited at a time
CONTROL_LIMIT = 125  # bytes that a control frame may have, section 5.5


class WebSocketProtocol:
    """One connection to `/act/stream`: a text message for each state, and one for each answer."""

    def __init__(self, host: str, key: str | None, base_path: str = "") -> None:
        """`base_path` stands before the path of the stream."""
        self.is_open = False
        self.is_closing = False
        self.replies: deque[Reply] = deque()

        self._nonce = base64.b64encode(os.urandom(16))
        self._hello = upgrade_request(
            host,
            key,
            f"GET {base_path}/act/stream",
            b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + self._nonce + b"\r\n",
        )
        self._body_limit = DEFAULT_BODY_LIMIT

        # What is being read.
        self._buffer = bytearray()
        self._searched = 0  # bytes of the buffer that were searched for the end of the handshake
        self._interim_responses = 0
        self._message: bytearray | None = None  # the fragments of a message so far
        self._refusal: _Refusal | None = None  # in place of a stream

    def hello(self) -> bytes:
        """Return the opening handshake."""
        return self._hello

    def request(self, request: Request) -> bytes:
        """Return a text message."""
        self._body_limit = request.body_limit
        return _masked_frame(TEXT, request.body)

    def receive(self, data: bytes) -> bytes:
        """Take in bytes; return the pong that is due.

        Raises `ProtocolError` for what is no WebSocket, and for what is above the limits.
        """
        if self.is_open and not self._buffer and self._take_whole(data):
            return b""

        self._buffer += data
        if not self.is_open and not self._read_handshake():
            return b""

        ping: bytes | None = None  # of several, the last one alone needs an answer
        frames = 0
        while not self.is_closing and (frame := self._take_frame()) is not None:
            frames += 1
            if frames > FRAME_LIMIT:
                raise ProtocolError(f"more than {FRAME_LIMIT} frames came at once")
            first, payload = frame
            if first == 0x80 | TEXT and self._message is None:
                self.replies.append(Reply(0, payload))
            elif first == 0x80 | PING:
                ping = payload
            elif first == 0x80 | CLOSE:
                self.is_closing = True
            elif first != 0x80 | PONG:
                self._take_fragment(first, payload)
        return b"" if ping is None else _masked_frame(PONG, ping)

    def receive_end(self) -> None:
        """Take in the end of the connection: a message that is not whole by now is lost.

        Raises `ProtocolError` where it ends an answer that refuses the stream.
        """
        self.is_closing = True
        if self._refusal is not None:
            raise self._refusal.error()

    # --- the opening handshake ---

    def _read_handshake(self) -> bool:
        """Return whether the service has opened the stream. Raises `ProtocolError`."""
        while self._buffer and self._refusal is None:
            data, self._searched = take_head(self._buffer, self._searched)
            if data is None:
                return False
            head = parse_head(data)
            if 100 <= head.status < 200 and head.status != 101:
                self._interim_responses += 1
                if self._interim_responses > INTERIM_LIMIT:
                    raise ProtocolError(f"more than {INTERIM_LIMIT} interim answers came")
                continue
            if head.status != 101:
                self._refusal = _Refusal(head)
                self._buffer[:0] = data + b"\r\n\r\n"
                break
            self._check_handshake(head)
            self.is_open = True
            return True

        if self._refusal is not None:
            self._refusal.receive(bytes(self._buffer))
            self._buffer.clear()
        return False

    def _check_handshake(self, head: ResponseHead) -> None:
        """Raise where the answer does not open a stream (RFC 6455, section 4.1)."""
        if b"websocket" not in head.tokens(b"upgrade"):
            raise ProtocolError("the handshake does not change to WebSocket")
        if b"upgrade" not in head.tokens(b"connection"):
            raise ProtocolError("the handshake has no Connection: Upgrade")
        # SHA-1 is what RFC 6455 asks for: it proves that a WebSocket server answered, and protects
        # nothing.
        digest = hashlib.sha1(self._nonce + ACCEPT_GUID, usedforsecurity=False).digest()
        if head.fields.get(b"sec-websocket-accept") != [base64.b64encode(digest)]:
            raise ProtocolError("the stream was opened with another client's key")
        for name in (b"sec-websocket-extensions", b"sec-websocket-protocol"):
            if name in head.fields:
                raise ProtocolError(f"the handshake has a {name.decode()}, which was not asked for")

    # --- frames ---

    def _take_whole(self, data: bytes) -> bool:
        """Take in an answer that came whole, alone and in one short frame, as nearly all do."""
        if len(data) < 2 or data[0] != 0x80 | TEXT or self._message is not None:
            return False
        size, start = data[1], 2
        if size == 126:
            size, start = int.from_bytes(data[2:4]), 4
        if (size > 126 and start == 2) or (size < 126 and start == 4):
            return False
        if len(data) != start + size or size > self._body_limit:
            return False
        self.replies.append(Reply(0, data[start:]))
        return True

    def _take_frame(self) -> tuple[int, bytes] | None:
        """Return the first byte and the payload of the next whole frame."""
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        first, size, start = buffer[0], buffer[1], 2
        if size > 127:
            raise ProtocolError("a frame is masked")
        if size > CONTROL_LIMIT:
            if first & 0x08:
                raise ProtocolError("a control frame is too long")
            start = 4 if size == 126 else 10
            if len(buffer) < start:
                return None
            size = int.from_bytes(buffer[2:start])
            if size < (126 if start == 4 else 65_536):
                raise ProtocolError("a frame's length is written in more bytes than it needs")
        if size > self._body_limit:
            raise ProtocolError(f"a message has {size} bytes, at most {self._body_limit} are read")
        if len(buffer) < start + size:
            return None

        payload = bytes(buffer[start : start + size])
        del buffer[: start + size]
        return first, payload

    def _take_fragment(self, first: int, payload: bytes) -> None:
        """Take in a part of a message that comes in several frames. Raises `ProtocolError`."""
        is_first = first == TEXT and self._message is None
        is_later = first & 0x7F == CONTINUATION and self._message is not None
        if not is_first and not is_later:
            raise ProtocolError(f"a frame begins with {first:#04x}, which does not belong here")

        message = bytearray() if self._message is None else self._message
        message += payload
        if len(message) > self._body_limit:
            raise ProtocolError(f"a message has more than {self._body_limit} bytes")
        self._message = message
        if first & 0x80:
            self.replies.append(Reply(0, bytes(message)))
            self._message = None


class _Refusal:
    """An answer over HTTP in place of a stream, whose body says why there is none."""

    def __init__(self, head: ResponseHead) -> None:
        self._head = head
        self._response = Http11Protocol("", None)

    def receive(self, data: bytes) -> None:
        """Take in bytes. Raises `ProtocolError` once the answer is whole, or is none."""
        try:
            self._response.receive(data)
        except ProtocolError as error:
            raise self.error() from error
        if self._response.replies or self._response.is_closing:
            raise self.error()

    def error(self) -> ProtocolError:
        """Return what the answer says, as far as it has come."""
        text = f"{self._head.status} {printable(self._head.reason_phrase[:60])}".rstrip()
        self._response.receive_end()
        for reply in self._response.replies:
            with suppress(ValueError, RecursionError):
                document = json.loads(reply.body)
                detail = document.get("detail") if isinstance(document, dict) else None
                if isinstance(detail, str):
                    text += f": {printable(detail)}"
        kind = AccessDeniedError if self._head.status in (401, 403) else ProtocolError
        return kind(f"the stream was not opened: {text}")


def _masked_frame(opcode: int, payload: bytes) -> bytes:
    """Return a client's frame.

    The mask keeps a web page from writing bytes of its choice through old proxies. XOR of two
    large integers is the fastest way to it in Python.
    """
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
