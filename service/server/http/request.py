"""What a connection knows of the request that it reads: its phase, and how large it may be."""

from enum import Enum

from service.api.fast_endpoints import FastEndpoint
from service.rest.middleware.requests import ConcurrencyLimiter
from service.types import Body

HEADER_BYTES_LIMIT = 65_536  # that a request may have beside its body
HEADER_LINES_LIMIT = 100
FRAMING_BYTES_PER_BODY_BYTE = 8  # chunk sizes, chunk extensions and line ends


class Phase(Enum):
    """What a connection waits for. The values are the metrics' and the log's words for it."""

    IDLE = "idle"  # for a request
    READING_HEADERS = "headers"  # for the rest of its headers
    READING_BODY = "body"  # for the rest of its body
    RESPONDING = "response"  # for the ASGI path's answer
    CLOSING = "closing"  # for the client to read why the connection ends


# A member costs 50 ns to look up in its class and 5 ns as a name of the module: the fast path,
# which asks for one seven times a request, uses the names.
IDLE = Phase.IDLE
READING_HEADERS = Phase.READING_HEADERS
READING_BODY = Phase.READING_BODY


class RequestSize:
    """Counts the bytes of a request, so that headers, trailers and chunk framing have an end."""

    def __init__(self) -> None:
        self.body_size = 0  # bytes of the body that have come, on the ASGI path
        self._bytes = 0
        self._has_begun = False

    def begin(self) -> None:
        """Begin to count a request."""
        self._has_begun = False

    def add(self, count: int) -> None:
        """Count the bytes of one read.

        The first read of a request is left out: it may hold earlier requests too, and is bounded by
        what is read at once.
        """
        self._bytes = self._bytes + count if self._has_begun else 0
        self._has_begun = True

    def begin_body(self, count: int = 0) -> None:
        """Begin to count a body on the ASGI path, of which `count` bytes have come."""
        self.body_size = count

    def add_body(self, count: int) -> None:
        """Count bytes of a body."""
        self.body_size += count

    def exceeds_limit(self, body_size: int) -> bool:
        """Return whether more surrounds a body of `body_size` bytes than a request may have."""
        return self._bytes > HEADER_BYTES_LIMIT + (1 + FRAMING_BYTES_PER_BODY_BYTE) * body_size


class FastRequest:
    """A request that the fast path may answer, while its body comes in."""

    def __init__(self, limiter: ConcurrencyLimiter) -> None:
        self.endpoint: FastEndpoint | None = None  # None while there is no such request
        self.body: Body = b""
        self._limiter = limiter
        self._body_limit = 0
        self._is_counted = False

    def begin(self, endpoint: FastEndpoint) -> None:
        """Begin a request to `endpoint`."""
        self.endpoint = endpoint
        self.body = b""
        self._body_limit = endpoint.body_limit

    def append(self, data: bytes) -> bool:
        """Take a piece of the body; return whether the body is within its limit."""
        if not self.body:
            self.body = data
        else:
            if isinstance(self.body, bytes):  # most bodies come in one piece
                self.body = bytearray(self.body)
            self.body += data
        return len(self.body) <= self._body_limit

    def try_count(self) -> bool:
        """Count an incomplete request among those in flight; return False if there are too many."""
        self._is_counted = self._is_counted or self._limiter.try_acquire()
        return self._is_counted

    def clear(self) -> None:
        """Forget the request, which was answered, refused or given to the ASGI path."""
        self.endpoint = None
        self.body = b""
        if self._is_counted:
            self._is_counted = False
            self._limiter.release()
