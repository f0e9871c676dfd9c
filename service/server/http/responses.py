"""The bytes of answers that are written without ASGI."""

from uvicorn.server import ServerState

from service.api.problems import MEDIA_TYPE, ProblemError
from service.types import RawHeader


class DefaultHeaders:
    """The header lines of every answer, such as the date. uvicorn renews them each second."""

    def __init__(self, server_state: ServerState) -> None:
        self._server_state = server_state
        self._headers: list[RawHeader] = []
        self._lines = b""

    def lines(self) -> bytes:
        """Return the lines as bytes."""
        if self._headers is not self._server_state.default_headers:
            self._headers = self._server_state.default_headers
            self._lines = b"".join(b"%b: %b\r\n" % header for header in self._headers)
        return self._lines


def final_problem(problem: ProblemError, default_lines: bytes) -> bytes:
    """Return the last answer of a connection: a problem."""
    status, body = problem.status, problem.body
    start = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\n"
        f"content-length: {len(body)}\r\n"
        f"content-type: {MEDIA_TYPE}\r\n"
    )
    return start.encode() + default_lines + b"connection: close\r\n\r\n" + body
