"""An answer leaves in one piece, and no answer is lost by it."""

import socket

import pytest

from service.one_write import _Gathering
from tests.conftest import Start

BODY = b'{"state":[0,0,0.05,0]}'
ACT = b"POST /act HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n%s" % (len(BODY), BODY)


def conversation(address: str, *sent: bytes) -> bytes:
    """Return all that comes back until the server closes the connection."""
    port = int(address.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        for part in sent:
            connection.sendall(part)
        received = bytearray()
        while part := connection.recv(65_536):
            received += part
    return bytes(received)


def test_answers_are_whole_whatever_their_kind(start: Start) -> None:
    closing = b"GET /health/live HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
    with start() as address:
        pipelined = conversation(address, ACT * 3 + closing)
        assert pipelined.count(b"HTTP/1.1 200 OK\r\n") == 4
        assert pipelined.count(b'"action_name":"right"') == 3
        head_only = conversation(address, b"HEAD /nowhere HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        assert head_only.startswith(b"HTTP/1.1 404")
        assert head_only.endswith(b"\r\n\r\n")
        large = conversation(address, b"GET /openapi.json HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        head, _, body = large.partition(b"\r\n\r\n")
        assert b"content-length: %d" % len(body) in head
        in_pieces = conversation(address, ACT[:60], ACT[60:] + closing)
        assert in_pieces.count(b"HTTP/1.1 200 OK\r\n") == 2
        assert conversation(address, b"nonsense\r\n\r\n").startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize("ended_by", ["step", "close"])
def test_a_head_that_nothing_follows_is_written_at_the_end_of_the_step(ended_by: str) -> None:
    written: list[bytes] = []
    later = []

    class Transport:
        def write(self, data: bytes) -> None:
            written.append(data)

        def close(self) -> None:
            written.append(b"closed")

    class Loop:
        def call_soon(self, call: object) -> None:
            later.append(call)

    gathering = _Gathering(Transport(), Loop())  # type: ignore[arg-type] # what it uses of both
    gathering.write(b"HTTP/1.1 200 OK\r\n\r\n")
    assert written == []
    if ended_by == "step":
        later[0]()  # type: ignore[operator] # a bound method
        assert written == [b"HTTP/1.1 200 OK\r\n\r\n"]
    else:
        gathering.close()
        assert written == [b"HTTP/1.1 200 OK\r\n\r\n", b"closed"]
