"""HTTP/1.1 (RFC 9112) as a client speaks it: requests written, responses read. No input or output.

Responses may be framed in every way that the RFC allows. What it does not allow is a
`ProtocolError` that names the fault. Compressed bodies and redirects are not followed.
"""

import re
from collections import deque
from collections.abc import Callable
from enum import Enum, auto
from typing import NamedTuple

from upright_client.errors import ProtocolError
from upright_client.protocols.protocol import ACT, Reply, Request

HEAD_LIMIT = 16_384  # bytes that a response's head, or its trailers, may have
FIELD_LINE_LIMIT = 100  # lines that a head, or trailers, may have
CHUNK_LIMIT = 1_024  # chunks of an answer, and one more for each 64 bytes of its limit
CHUNK_LINE_LIMIT = 1_024  # bytes that the line before a chunk may have, with its extensions
INTERIM_LIMIT = 16  # interim responses (1xx) before one final response
DEFAULT_BODY_LIMIT = 65_536  # bytes of a body that nobody asked for

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_OTHER_FIELDS = (
    rb"(?:(?!content-(?:length|encoding):|transfer-encoding:|connection:)"
    + _TOKEN
    + rb"++:[^\r\n\0]*+\r\n)*+"
)
# The head of nearly every answer: one match costs less than taking it apart line by line.
_PLAIN_HEAD = re.compile(
    rb"HTTP/1\.1 (200|[45][0-9][0-9]) [^\r\n\0]*+\r\n"
    + _OTHER_FIELDS
    + rb"content-length:[ \t]*+([0-9]{1,9})[ \t]*+\r\n"
    + _OTHER_FIELDS
    + rb"\r\n",
    re.IGNORECASE,
)
_STATUS_LINE = re.compile(rb"HTTP/1\.([0-9])[ \t]+([1-9][0-9][0-9])(?:[ \t]+([^\r\n\0]*))?")
_FIELD = re.compile(rb"(" + _TOKEN + rb"++):([^\r\n\0]*+)")
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_LINE_END = re.compile(rb"\r?\n")
# Every quantifier is possessive, so that no line makes the match go back over it again and again.
_CHUNK_LINE = re.compile(
    rb"([0-9A-Fa-f]++)(?:[ \t]*+;[ \t]*+"
    + _TOKEN
    + rb"++(?:[ \t]*+=[ \t]*+(?:"
    + _TOKEN
    + rb'++|"(?:[^"\\\r\n\0]|\\[^\r\n\0])*+"))?+)*+[ \t]*+'
)


class ResponseHead(NamedTuple):
    """The status line and the header fields of a response."""

    version: tuple[int, int]
    status: int
    reason_phrase: str
    fields: dict[bytes, list[bytes]]  # by their names in lower case

    def tokens(self, name: bytes) -> list[bytes]:
        """Return the members of a comma-separated field, in lower case."""
        members = b",".join(self.fields.get(name, [])).lower().split(b",")
        return [member.strip(b" \t") for member in members if member.strip(b" \t")]


class _Expecting(Enum):
    """Which part of a response comes next."""

    HEAD = auto()
    SIZED_BODY = auto()
    BODY_UNTIL_END = auto()
    CHUNK_LINE = auto()
    CHUNK = auto()
    TRAILERS = auto()


class Http11Protocol:
    """One connection over which requests are sent one after another."""

    def __init__(self, host: str, key: str | None, base_path: str = "") -> None:
        """`base_path` stands before the paths of all endpoints."""
        self.is_open = True
        self.is_closing = False
        self.replies: deque[Reply] = deque()

        self._fields = _request_fields(host, key)
        self._base_path = base_path
        self._act_head = self._head(ACT) + b"Content-Type: application/json\r\nContent-Length: "
        self._body_limit = DEFAULT_BODY_LIMIT

        # The response that is being read.
        self._buffer = bytearray()
        self._expecting = _Expecting.HEAD
        self._steps: dict[_Expecting, Callable[[], bool]] = {
            _Expecting.HEAD: self._read_head,
            _Expecting.SIZED_BODY: self._read_sized_body,
            _Expecting.BODY_UNTIL_END: self._read_body_until_end,
            _Expecting.CHUNK_LINE: self._read_chunk_line,
            _Expecting.CHUNK: self._read_chunk,
            _Expecting.TRAILERS: self._read_trailers,
        }
        self._searched = 0  # bytes of the buffer that were searched for the end of the head
        self._interim_responses = 0
        self._status = 0
        self._size = 0  # of the body, or of the chunk
        self._body = bytearray()  # of a response in chunks
        self._chunks = 0
        self._closes_after = False

    def hello(self) -> bytes:
        """Return nothing: HTTP needs no greeting."""
        return b""

    def request(self, request: Request) -> bytes:
        """Return the bytes of a request."""
        self._body_limit = request.body_limit
        body = request.body
        if request.endpoint == ACT:
            return b"%b%d\r\n\r\n%b" % (self._act_head, len(body), body)

        head = self._head(request.endpoint)
        if body:
            head += b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(body)
        return b"%b\r\n%b" % (head, body)

    def receive(self, data: bytes) -> bytes:
        """Take in bytes; HTTP never has anything to send back.

        Raises `ProtocolError` for what is not HTTP/1.1, and for what is above the limits.
        """
        if not self._buffer and self._expecting is _Expecting.HEAD and self._read_whole(data):
            return b""

        self._buffer += data
        while self._buffer and not self.is_closing and self._steps[self._expecting]():
            pass
        return b""

    def receive_end(self) -> None:
        """Take in the end of the connection, which may be the end of a body."""
        if self._expecting is _Expecting.BODY_UNTIL_END:
            self._finish(bytes(self._buffer))
        self.is_closing = True

    # --- requests ---

    def _head(self, endpoint: str) -> bytes:
        method, path = endpoint.split(" ")
        return f"{method} {self._base_path}{path} HTTP/1.1\r\n".encode() + self._fields

    # --- responses: each step takes one part from the buffer, or returns False until more comes ---

    def _read_whole(self, data: bytes) -> bool:
        """Read a plain response that came whole and alone, as nearly all do."""
        match = _PLAIN_HEAD.match(data)
        if match is None:
            return False
        size = int(match[2])
        if size > self._body_limit or len(data) != match.end() + size:
            return False

        self._interim_responses = 0
        self.replies.append(Reply(int(match[1]), data[match.end() :]))
        return True

    def _read_head(self) -> bool:
        data, self._searched = take_head(self._buffer, self._searched)
        if data is None:
            return False
        head = parse_head(data)

        if head.status < 200:
            if head.status == 101:
                raise ProtocolError("the answer changes the protocol, which nobody asked for")
            self._interim_responses += 1
            if self._interim_responses > INTERIM_LIMIT:
                raise ProtocolError(f"more than {INTERIM_LIMIT} interim answers came")
            return True

        self._interim_responses = 0
        self._begin_body(head)
        return True

    def _begin_body(self, head: ResponseHead) -> None:
        """Find out how the body is framed (RFC 9112, section 6.3)."""
        if b"content-encoding" in head.fields and head.tokens(b"content-encoding") != [b"identity"]:
            raise ProtocolError("the answer is compressed, which this client does not read")
        self._status = head.status
        options = head.tokens(b"connection")
        keeps_open = b"close" not in options and (
            head.version >= (1, 1) or b"keep-alive" in options
        )
        self._closes_after = not keeps_open

        codings = head.tokens(b"transfer-encoding")
        if b"transfer-encoding" in head.fields:
            self._begin_coded_body(head, codings)
        elif b"content-length" in head.fields and head.status not in (204, 304):
            self._size = self._content_length(head)
            self._expecting = _Expecting.SIZED_BODY
            if self._size == 0:
                self._finish(b"")
        elif head.status in (204, 304):
            self._finish(b"")
        else:
            self._closes_after = True
            self._expecting = _Expecting.BODY_UNTIL_END

    def _begin_coded_body(self, head: ResponseHead, codings: list[bytes]) -> None:
        if b"content-length" in head.fields:
            raise ProtocolError("the answer has both Transfer-Encoding and Content-Length")
        if head.version < (1, 1):
            raise ProtocolError("the answer is HTTP/1.0 and has a Transfer-Encoding")
        if head.status in (204, 304):
            raise ProtocolError(f"the answer has status {head.status} and a Transfer-Encoding")
        if codings != [b"chunked"]:
            names = b", ".join(codings)[:40]
            raise ProtocolError(f"the answer's Transfer-Encoding is {names!r}, expected chunked")
        self._body = bytearray()
        self._chunks = 0
        self._expecting = _Expecting.CHUNK_LINE

    def _content_length(self, head: ResponseHead) -> int:
        lengths = set(head.tokens(b"content-length"))
        if len(lengths) != 1:
            raise ProtocolError(f"the answer has {len(lengths)} different Content-Lengths")
        digits = lengths.pop()
        if not digits.isdigit():
            raise ProtocolError(f"the answer's Content-Length is {digits[:20]!r}, no number")
        significant = digits.lstrip(b"0") or b"0"
        if len(significant) > 18 or int(significant) > self._body_limit:
            raise ProtocolError(
                f"the answer has {significant[:20].decode()} bytes, at most {self._body_limit} "
                "are read"
            )
        return int(significant)

    def _read_sized_body(self) -> bool:
        if len(self._buffer) < self._size:
            return False
        body = bytes(self._buffer[: self._size])
        del self._buffer[: self._size]
        self._finish(body)
        return True

    def _read_body_until_end(self) -> bool:
        self._check_size(len(self._buffer))
        return False

    def _read_chunk_line(self) -> bool:
        end = self._buffer.find(b"\r\n", 0, CHUNK_LINE_LIMIT + 2)
        if end < 0:
            if len(self._buffer) > CHUNK_LINE_LIMIT or b"\n" in self._buffer:
                raise ProtocolError("the answer has a chunk whose first line does not end")
            return False
        match = _CHUNK_LINE.fullmatch(self._buffer, 0, end)
        if match is None:
            raise ProtocolError(f"a chunk begins with {bytes(self._buffer[: min(end, 40)])!r}")

        digits = match[1].lstrip(b"0") or b"0"
        self._check_size(len(self._body) + (int(digits, 16) if len(digits) <= 15 else 2**60))
        self._chunks += 1
        if self._chunks > CHUNK_LIMIT + self._body_limit // 64:
            raise ProtocolError("the answer has too many chunks")
        self._size = int(digits, 16)
        if self._size:
            del self._buffer[: end + 2]
            self._expecting = _Expecting.CHUNK
        else:
            del self._buffer[:end]  # the line's own end stays: trailers end with an empty line
            self._searched = 0
            self._expecting = _Expecting.TRAILERS
        return True

    def _read_chunk(self) -> bool:
        if len(self._buffer) < self._size + 2:
            return False
        if self._buffer[self._size : self._size + 2] != b"\r\n":
            raise ProtocolError(f"a chunk has more than the {self._size} bytes that it announced")
        self._body += self._buffer[: self._size]
        del self._buffer[: self._size + 2]
        self._expecting = _Expecting.CHUNK_LINE
        return True

    def _read_trailers(self) -> bool:
        data, self._searched = take_head(self._buffer, self._searched, is_response=False)
        if data is None:
            return False
        parse_fields(data.removeprefix(b"\r\n"))
        self._finish(bytes(self._body))
        return True

    def _check_size(self, size: int) -> None:
        if size > self._body_limit:
            raise ProtocolError(f"the answer has more than {self._body_limit} bytes")

    def _finish(self, body: bytes) -> None:
        """Hand over the response, and make ready for the next one."""
        self.replies.append(Reply(self._status, body))
        self._expecting = _Expecting.HEAD
        self._searched = 0
        self._body = bytearray()
        self.is_closing = self.is_closing or self._closes_after


def _request_fields(host: str, key: str | None) -> bytes:
    """Return the header fields that every request has."""
    fields = f"Host: {host}\r\n"
    if key is not None:
        fields += f"Authorization: Bearer {key}\r\n"
    return fields.encode("latin-1")


def upgrade_request(host: str, key: str | None, endpoint: str, fields: bytes) -> bytes:
    """Return a request without a body that asks for another protocol."""
    return b"%b HTTP/1.1\r\n%b%b\r\n" % (endpoint.encode(), _request_fields(host, key), fields)


def take_head(
    buffer: bytearray, searched: int, *, is_response: bool = True
) -> tuple[bytes | None, int]:
    """Take a head off the front of a buffer, without the empty line that ends it.

    Returns it, or `None` where its end has not come, and how many bytes were searched for that
    end: they need not be searched again. Raises `ProtocolError` for a head that is too long, or
    that is none.
    """
    if is_response and not buffer.startswith(b"HTTP/1."[: len(buffer)]):
        raise ProtocolError(f"the answer is not HTTP/1.1: it begins with {bytes(buffer[:20])!r}")

    end = _HEAD_END.search(buffer, max(0, searched - 3), HEAD_LIMIT)
    if end is None:
        if len(buffer) >= HEAD_LIMIT:
            raise ProtocolError(f"the head of the answer has more than {HEAD_LIMIT} bytes")
        return None, len(buffer)
    head = bytes(buffer[: end.start()])
    del buffer[: end.end()]
    return head, 0


def parse_head(data: bytes) -> ResponseHead:
    """Return the head of a response. Raises `ProtocolError` where it is not as RFC 9112 says."""
    line, _, rest = data.partition(b"\n")
    line = line.removesuffix(b"\r")
    match = _STATUS_LINE.fullmatch(line)
    if match is None:
        raise ProtocolError(f"the status line is {line[:60]!r}")
    reason_phrase = (match[3] or b"").decode("latin-1").strip()
    return ResponseHead((1, int(match[1])), int(match[2]), reason_phrase, parse_fields(rest))


def parse_fields(data: bytes) -> dict[bytes, list[bytes]]:
    """Return header fields by their names in lower case.

    Lines may be folded and may end without a carriage return. Raises `ProtocolError` for a line
    that is no field.
    """
    if data.count(b"\n") >= FIELD_LINE_LIMIT:
        raise ProtocolError(f"the answer has more than {FIELD_LINE_LIMIT} header lines")
    fields: dict[bytes, list[bytes]] = {}
    values: list[bytes] = []  # of the last field
    for line in _LINE_END.split(data) if data else []:
        if line[:1] in (b" ", b"\t") and values and b"\r" not in line and b"\0" not in line:
            values[-1] = (values[-1] + b" " + line.strip(b" \t")).strip(b" ")  # a folded line
            continue
        match = _FIELD.fullmatch(line)
        if match is None:
            raise ProtocolError(f"the answer has a header line {line[:40]!r}")
        values = fields.setdefault(match[1].lower(), [])
        values.append(match[2].strip(b" \t"))
    return fields
