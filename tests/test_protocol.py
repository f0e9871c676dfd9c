"""An answer leaves in one piece, and none is lost by it."""

import socket
import time

from service.protocol import Gathering
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


def test_a_head_is_held_for_its_body_and_for_no_longer_than_the_answer() -> None:
    written: list[bytes] = []

    class Transport:
        def is_closing(self) -> bool:
            return False

        def write(self, data: bytes) -> None:
            written.append(data)

        def close(self) -> None:
            written.append(b"closed")

    gathering = Gathering(Transport())  # type: ignore[arg-type] # what it uses of one
    gathering.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n")
    assert written == []
    gathering.write(b"ab")
    gathering.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    assert written == [b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nab", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"]
    gathering.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\n")
    gathering.close()
    assert written[2:] == [b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\n", b"closed"]


def test_a_batch_is_answered_whole_to_a_client_that_reads_late(start: Start) -> None:
    rows = b",".join([b"[0,0,0.05,0]"] * 10_000)
    body = b'{"states":[%s]}' % rows
    batch = b"POST /act/batch HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
    with start() as address, socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), 20) as connection:
        for _ in range(3):
            connection.sendall(batch)
        time.sleep(0.5)
        connection.sendall(b"GET /health/live HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        received = bytearray()
        while part := connection.recv(65_536):
            received += part
    assert received.count(b"HTTP/1.1 200 OK\r\n") == 4
    assert received.count(b'"right"') == 30_000
