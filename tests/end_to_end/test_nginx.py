"""Behind nginx with the configuration that ships: no caller's bytes become another's request."""

import json
import os
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import numpy as np
import pytest
from websockets.sync.client import connect

from benchmarks.operations.restart import CONFIG, nginx
from models.bundle import Bundle
from service.inference.loading import load
from tests.end_to_end.test_drain import running
from tests.support.service import free_port

IN_CI = bool(os.environ.get("CI"))
PROGRAM = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
pytestmark = pytest.mark.skipif(
    PROGRAM is None and not IN_CI, reason="needs nginx: apt-get install nginx-light"
)

NAME = "my-service"
BODY = b'{"state":[0,0,0.05,0]}'
HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: localhost\r\n\r\n"


@dataclass
class Proxied:
    """nginx, and the log of the service behind it."""

    port: int
    log: Path


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    port, log = free_port(), tmp_path_factory.mktemp("nginx") / "service.log"
    arguments = ("--log-requests", "--drain", "0", "--model-name", NAME)
    hosts = ("--allowed-host", "localhost", "--allowed-host", "127.0.0.1")
    with (
        running(port, log, *arguments, *hosts),
        nginx((port, port), CONFIG.read_text()) as own,
    ):
        yield Proxied(own, log)


def post(headers: bytes, body: bytes) -> bytes:
    return b"POST /act HTTP/1.1\r\nHost: localhost\r\n" + headers + b"\r\n" + body


def length(body: bytes) -> bytes:
    return b"Content-Length: %d\r\n" % len(body)


CHUNKED = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
ENDED = b"0\r\n\r\n" + HIDDEN  # to who reads chunks, the body ends before the hidden request
TE = b"Transfer-Encoding: chunked\r\n"
SMUGGLED = {
    "a length and chunks": post(length(ENDED) + TE, ENDED),
    "chunks and a length": post(TE + length(ENDED), ENDED),
    "a length too short, and chunks": post(b"Content-Length: 4\r\n" + TE, CHUNKED + HIDDEN),
    "two lengths": post(length(BODY) + length(BODY + HIDDEN), BODY + HIDDEN),
    "two lengths in one": post(b"Content-Length: 22, 60\r\n", BODY + HIDDEN),
    "a length with a sign": post(b"Content-Length: +22\r\n", BODY + HIDDEN),
    "a length in octal": post(b"Content-Length: 026\r\n", BODY + HIDDEN),
    "a length with a space before its colon": post(b"Content-Length : 0\r\n", BODY + HIDDEN),
    "a length on a folded line": post(b"X: y\r\n Content-Length: 0\r\n", HIDDEN),
    "chunks with a space before the colon": post(
        b"Transfer-Encoding : chunked\r\n" + length(ENDED), ENDED
    ),
    "chunks by a tab": post(b"Transfer-Encoding:\tchunked\r\n" + length(ENDED), ENDED),
    "chunks by a vertical tab": post(b"Transfer-Encoding:\x0bchunked\r\n" + length(ENDED), ENDED),
    "chunks in quotes": post(b'Transfer-Encoding: "chunked"\r\n' + length(ENDED), ENDED),
    "chunks and identity": post(b"Transfer-Encoding: chunked, identity\r\n", ENDED),
    "chunks twice": post(TE + b"Transfer-Encoding: cow\r\n", ENDED),
    "chunks on a folded line": post(b"Transfer-Encoding:\r\n chunked\r\n" + length(ENDED), ENDED),
    "chunks by an underscore": post(b"Transfer_Encoding: chunked\r\n" + length(ENDED), ENDED),
    "a chunk's size with a prefix": post(TE, b"0x16\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "a chunk's size that overflows": post(
        TE, b"1" + b"0" * 15 + b"16\r\n" + BODY + b"\r\n0\r\n\r\n" + HIDDEN
    ),
    "a chunk's size that is negative": post(TE, b"-1\r\n" + BODY + b"\r\n0\r\n\r\n" + HIDDEN),
    "a chunk that ends by a line feed": post(TE, b"16\n" + BODY + b"\n0\n\n" + HIDDEN),
    "a chunk's extension with a line feed": post(
        TE, b"16;a\nb\r\n" + BODY + b"\r\n0\r\n\r\n" + HIDDEN
    ),
    "a request in a trailer": post(TE, CHUNKED[:-2] + HIDDEN),
    "a line feed in a header": post(b"X: y\nContent-Length: 0\r\n", HIDDEN),
    "a carriage return in a header": post(b"X: y\rContent-Length: 0\r\n", HIDDEN),
    "a zero in a header": post(b"X: y\0Content-Length: 0\r\n", HIDDEN),
    "a request in the path": b"POST /act?x=\r\nHost: localhost\r\n\r\n" + HIDDEN,
    "an upgrade to HTTP/2": post(
        b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AA\r\n"
        + length(HIDDEN),
        HIDDEN,
    ),
    "a body on GET": b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n" + length(HIDDEN) + b"\r\n"
    + HIDDEN,
    "an expectation": post(b"Expect: 100-continue\r\n" + length(HIDDEN), HIDDEN),
}  # fmt: skip


def exchange(port: int, content: bytes) -> bytes:
    """Send some bytes, and return what comes until the other side closes or is silent."""
    with socket.create_connection(("127.0.0.1", port), 5) as connection:
        connection.sendall(content)
        connection.settimeout(0.3)
        received = b""
        try:
            while part := connection.recv(65_536):
                received += part
        except (TimeoutError, ConnectionResetError):
            pass
        return received


@pytest.mark.parametrize("attack", SMUGGLED)
def test_no_request_comes_through_that_nginx_did_not_see(
    proxied: Proxied, attack: str, committed: Bundle
) -> None:
    before = proxied.log.stat().st_size
    received = exchange(proxied.port, SMUGGLED[attack])

    # Whatever nginx kept open to the service, the next callers get their own answers.
    policy, rng = load(committed, "onnx"), np.random.default_rng(len(received))
    with httpx2.Client(base_url=f"http://localhost:{proxied.port}") as client:
        for _ in range(4):
            state = [float(value) for value in rng.uniform(-0.1, 0.1, 4)]
            answer = client.post("/act", json={"state": state})
            assert answer.status_code == 200
            assert answer.json()["q_values"] == policy.decide_one(tuple(state))[1]  # type: ignore[arg-type] # four

    log = proxied.log.read_bytes()[before:]
    # nginx answers for a hidden request only where it saw one itself, as the second of two.
    if received.count(b"HTTP/1.1 ") < 2:
        assert b"/hidden" not in log, (received, log)


def test_a_stream_and_the_models_name_come_through(proxied: Proxied) -> None:
    with connect(f"ws://localhost:{proxied.port}/act/stream") as stream:
        stream.send(BODY.decode())
        assert json.loads(stream.recv(5))["action"] == 1
    with httpx2.Client(base_url=f"http://localhost:{proxied.port}") as client:
        assert client.get(f"/v2/models/{NAME}/ready").json() == {"name": NAME, "ready": True}
        assert client.get("/v2/models/cartpole-dqn/ready").status_code == 404
