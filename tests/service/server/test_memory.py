"""What connections have used is free when they have gone."""

import gc
import socket
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from models.bundle import Bundle
from service.inference.loading import load
from service.server.http.protocol import HttpProtocol
from service.server.memory import CHECKS_UNTIL_SECOND_TRIM, CROWD, MemoryTrimmer
from service.server.websocket_protocol import WebSocketProtocol
from service.state import ServiceState
from tests.support.raw_http import ACT, HANDSHAKE, MODEL, STATE, frame, serving
from tests.support.service import settings, wait_for

KINDS = (HttpProtocol, WebSocketProtocol, RequestResponseCycle)
H2C = ACT.replace(
    b"\r\n", b"\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AA\r\n", 1
)


class Circle:
    """Something that only the garbage collector can free."""

    def __init__(self) -> None:
        self.self = self


@contextmanager
def without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


SENT = {
    "nothing": b"",
    "a request on the fast path": ACT,
    "a request on the ASGI path": MODEL,
    "half a body": ACT[:-5],
    "half a head": MODEL[:-2],
    "no HTTP": b"nonsense\r\n\r\n",
    "an offer of HTTP/2": H2C,
    "many requests at once": MODEL * 50 + ACT,
    "a handshake": HANDSHAKE,
    "a handshake and messages": HANDSHAKE + frame(STATE) * 50,
    "a stream that is closed": HANDSHAKE + frame(b"\x03\xe8", 8),
}


@pytest.mark.parametrize("sent", SENT.values(), ids=SENT)
def test_a_connection_that_has_gone_leaves_nothing_to_the_garbage_collector(
    committed: Bundle, sent: bytes
) -> None:
    def left() -> list[object]:
        return [thing for thing in gc.get_objects() if type(thing) in KINDS]

    with serving(settings(), ServiceState(load(committed, "onnx"))) as port, without_collector():
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", port), 10) as connection:
                connection.sendall(sent)
                if sent and sent in (ACT, MODEL, H2C, HANDSHAKE):
                    assert connection.recv(4_096)
        wait_for(lambda: not left())


def test_memory_is_given_back_when_a_crowd_has_gone_and_when_its_last_have_gone() -> None:
    memory = MemoryTrimmer()
    with without_collector():
        memory.check(CROWD - 1)
        circle = weakref.ref(Circle())
        memory.check(0)
        assert circle() is not None, "it was no crowd"
        memory.check(CROWD + 5)
        memory.check(CROWD)
        assert circle() is not None, "the crowd is still there"
        memory.check(5)
        assert circle() is None
        circle = weakref.ref(Circle())
        for _ in range(CHECKS_UNTIL_SECOND_TRIM - 1):
            memory.check(0)
        assert circle() is not None
        memory.check(0)
        assert circle() is None
