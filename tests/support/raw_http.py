"""The application on real sockets, in this process; and HTTP as bytes that a test sees."""

import re
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO

import uvicorn

from service.server.application import create_application
from service.server.http.protocol import HttpProtocol
from service.server.server import Server
from service.server.websocket_protocol import WebSocketProtocol
from service.settings import Settings
from service.state import ServiceState

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Answer:
    """An answer but for what differs each time: the date, inference's time, a made-up id."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    def __getitem__(self, name: str) -> bytes:
        return dict(self.headers)[name.encode()]


@dataclass(frozen=True)
class BothPaths:
    """Two ports: one with the fast path in front, one where all requests take the ASGI path."""

    fast: int
    asgi: int
    service_state: ServiceState


@contextmanager
def both_paths(settings: Settings, service_state: ServiceState) -> Iterator[BothPaths]:
    """Serve by both until the end of the block."""
    # A state each: what one application logs is not the other's.
    other = ServiceState(
        service_state.policy,
        metrics=service_state.metrics,
        keys=service_state.keys,
        tls=service_state.tls,
    )
    with (
        serving(settings, service_state) as fast,
        serving(settings, other, fast_path=False) as asgi,
    ):
        yield BothPaths(fast, asgi, service_state)


@contextmanager
def serving(
    settings: Settings, service_state: ServiceState, *, fast_path: bool = True
) -> Iterator[int]:
    """Serve by a thread during the block; yield the port. `fast_path` off: uvicorn's protocol."""
    application = create_application(settings, service_state)
    config = uvicorn.Config(
        application,
        http=partial(HttpProtocol, application) if fast_path else "httptools",  # type: ignore[arg-type] # uvicorn calls it as it would the class
        ws=partial(WebSocketProtocol, application),  # type: ignore[arg-type] # as above
        proxy_headers=False,
        log_config=None,
        server_header=False,
    )
    server = Server(config, settings, service_state)
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([listener],))
    port: int = listener.getsockname()[1]
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the service did not start"
            time.sleep(0.005)
        yield port
    finally:
        server.should_exit = True
        thread.join()


def request(
    method: str, path: str, headers: Headers, pieces: list[bytes], *, chunked: bool = False
) -> list[bytes]:
    """Return what a client sends, in pieces: the head with the first one."""
    framing = (
        (b"transfer-encoding", b"chunked")
        if chunked
        else (b"content-length", b"%d" % len(b"".join(pieces)))
    )
    lines = b"".join(b"%b: %b\r\n" % line for line in ((b"host", b"localhost"), framing, *headers))
    head = b"%b %b HTTP/1.1\r\n%b\r\n" % (method.encode(), path.encode(), lines)
    sent = (
        [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces if piece] + [b"0\r\n\r\n"]
        if chunked
        else pieces
    )
    return [head + b"".join(sent[:1]), *sent[1:]]


def ask(
    port: int, pieces: Iterable[bytes], *, answers: int = 1, has_body: bool = True
) -> list[Answer]:
    """Return the answers to what is sent on one connection."""
    with (
        socket.create_connection(("127.0.0.1", port), 10) as connection,
        connection.makefile("rb") as stream,
    ):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            with suppress(ConnectionError):  # it may have answered, and closed, before it had all
                connection.sendall(piece)
        return [_read(stream, has_body) for _ in range(answers)]


def leave(port: int, sent: bytes) -> None:
    """Send something, and go away."""
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(sent)


def _read(stream: BinaryIO, has_body: bool) -> Answer:
    line = stream.readline()
    assert line, "closed without an answer"
    headers: Headers = []
    while text := stream.readline().rstrip(b"\r\n"):
        name, _, value = text.partition(b": ")
        headers.append((name, value))
    length = int(dict(headers)[b"content-length"]) if has_body else 0
    return Answer(
        int(line.split()[1]),
        tuple((name, _steady(name, value)) for name, value in headers),
        stream.read(length),
    )


def _steady(name: bytes, value: bytes) -> bytes:
    match name:
        case b"date":
            return b""
        case b"server-timing":
            return re.sub(rb"[0-9.]+$", b"", value)
        case b"x-request-id":
            return re.sub(rb"^[0-9a-f]{32}$", b"", value)
    return value


STATE = b'{"state":[0,0,0.05,0]}'
UPGRADE = [
    (b"upgrade", b"websocket"),
    (b"connection", b"upgrade"),
    (b"sec-websocket-version", b"13"),
]

ACT = request("POST", "/act", [], [STATE])[0]


MODEL = request("GET", "/model", [], [])[0]


HANDSHAKE = request(
    "GET", "/act/stream", [*UPGRADE, (b"sec-websocket-key", b"AAAAAAAAAAAAAAAAAAAAAA==")], []
)[0].replace(b"content-length: 0\r\n", b"")


def frame(content: bytes, opcode: int = 1, *, final: bool = True) -> bytes:
    """Return a frame as a client sends it, masked with zeros."""
    return bytes((final << 7 | opcode, 0x80 | len(content))) + bytes(4) + content
