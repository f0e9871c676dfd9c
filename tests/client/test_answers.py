"""What a service and the proxies before it may send, and what becomes of all else."""

import math
import time
from typing import Any

import pytest
from upright_client import PolicyClient
from upright_client.errors import ProtocolError
from upright_client.protocols.http11 import Http11Protocol
from upright_client.protocols.protocol import ACT, Request, Transport
from upright_client.protocols.websocket import WebSocketProtocol

from tests.client import fuzz
from tests.client.answering_service import AnsweringService, right_answer
from tests.support.clients import PATIENT, SHORT, STATE, InLoop, Make
from tests.support.service import wait_for

BODY = b'{"seq":1}'
SIZED = b"content-length: 9\r\n\r\n" + BODY
CHUNKS = b'4\r\n{"se\r\n5\r\nq":1}\r\n0\r\n\r\n'
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(params=["threads", "asyncio"])
def make(request: pytest.FixtureRequest) -> Make:
    return PolicyClient if request.param == "threads" else InLoop


@pytest.fixture(params=["http", "stream"])
def transport(request: pytest.FixtureRequest) -> Transport:
    kind: Transport = request.param
    return kind


ALLOWED = {
    "plain": b"HTTP/1.1 200 OK\r\n" + SIZED,
    "no reason phrase": b"HTTP/1.1 200 \r\n" + SIZED,
    "a continue before it": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n" + SIZED,
    "early hints before it": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 3
    + b"HTTP/1.1 200 OK\r\n"
    + SIZED,
    "white space around a value": b"HTTP/1.1 200 OK\r\nContent-Length:\t 9 \t\r\n\r\n" + BODY,
    "no white space": b"HTTP/1.1 200 OK\r\nContent-Length:9\r\n\r\n" + BODY,
    "a folded line": b"HTTP/1.1 200 OK\r\nX: a\r\n \tb\r\n" + SIZED,
    "lines without carriage returns": b"HTTP/1.1 200 OK\ncontent-length: 9\n\n" + BODY,
    "the same length twice": b"HTTP/1.1 200 OK\r\ncontent-length: 9, 9\r\ncontent-length: 9\r\n\r\n"
    + BODY,
    "leading zeros": b"HTTP/1.1 200 OK\r\ncontent-length: 0009\r\n\r\n" + BODY,
    "an empty value": b"HTTP/1.1 200 OK\r\nX:\r\n" + SIZED,
    "bytes beyond ASCII in a value": b"HTTP/1.1 200 OK\r\nX: \xff\xfe\r\n" + SIZED,
    "chunks": CHUNKED + CHUNKS,
    "chunks in any case": b"HTTP/1.1 200 OK\r\ntransfer-encoding:  Chunked \r\n\r\n" + CHUNKS,
    "chunk extensions": CHUNKED
    + b'4;a\r\n{"se\r\n5 ; b = "q;\\"\r" ; c=d\r\nq":1}\r\n'.replace(b'\r" ;', b'" ;')
    + b"0;last\r\n\r\n",
    "trailers": CHUNKED + CHUNKS[:-2] + b"X-Sum: 1\r\nY:\r\n z\r\n\r\n",
    "sizes with zeros": CHUNKED + b'0004\r\n{"se\r\n05\r\nq":1}\r\n000\r\n\r\n',
    "sizes in capitals": CHUNKED + b"0A\r\n" + BODY + b" \r\n0\r\n\r\n",
    "HTTP/1.0 with a length": b"HTTP/1.0 200 OK\r\n" + SIZED,
    "a later minor version": b"HTTP/1.2 200 OK\r\n" + SIZED,
    "Connection: close": b"HTTP/1.1 200 OK\r\nConnection: foo, CLOSE\r\n" + SIZED,
    "a body until the end": b"HTTP/1.1 200 OK\r\n\r\n" + BODY,
    "HTTP/1.0 until the end": b"HTTP/1.0 200 OK\r\nServer: old\r\n\r\n" + BODY,
    "identity": b"HTTP/1.1 200 OK\r\nContent-Encoding: identity\r\n" + SIZED,
}


@pytest.mark.parametrize("answer", ALLOWED.values(), ids=ALLOWED)
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_what_http_allows_is_read(answer: bytes, size: int) -> None:
    protocol = Http11Protocol("h", None)
    for start in range(0, len(answer), size):
        protocol.receive(answer[start : start + size])
    protocol.receive_end()
    assert [(reply.status, reply.body.strip()) for reply in protocol.replies] == [(200, BODY)]


FORBIDDEN = {
    b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\ncontent-length: 8\r\n\r\n": "2 different",
    b"HTTP/1.1 200 OK\r\ncontent-length: +9\r\n\r\n": "no number",
    b"HTTP/1.1 200 OK\r\ncontent-length:\r\n\r\n": "Content-Length",
    b"HTTP/1.1 200 OK\r\ncontent-length: 9999999\r\n\r\n": "at most",
    b"HTTP/1.1 200 OK\r\ncontent-length : 9\r\n\r\n": "header line",
    b"HTTP/1.1 200 OK\r\n x: folded first\r\n\r\n": "header line",
    b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n": "header line",
    b"HTTP/1.1 200 OK\r\nx: a\0b\r\n\r\n": "header line",
    b"HTTP/1.1 200 OK\r\nx: a\rb\r\n\r\n": "header line",
    b"HTTP/1.1 200 OK\r\n" + b"a:\r\n" * 200 + b"\r\n": "header lines",
    b"HTTP/1.1 200 OK\r\nx: " + b"y" * 20_000: "more than 16384 bytes",
    b"HTTP/1.1 20 OK\r\n\r\n": "status line",
    b"HTTP/2 200\r\n\r\n": "not HTTP/1.1",
    b"SSH-2.0-surprise\r\n": "not HTTP/1.1",
    b"\r\nHTTP/1.1 200 OK\r\n": "not HTTP/1.1",
    b"HTTP/1.1 101 Switching Protocols\r\n\r\n": "changes the protocol",
    b"HTTP/1.1 100 Continue\r\n\r\n" * 20: "interim",
    b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n": "HTTP/1.0",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n": "gzip",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, chunked\r\n\r\n": "chunked, chunked",
    b"HTTP/1.1 204 No\r\ntransfer-encoding: chunked\r\n\r\n": "204",
    b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 1\r\n\r\n": "compressed",
    CHUNKED[:-2] + b"content-length: 9\r\n\r\n": "both",
    CHUNKED + b"x\r\n": "a chunk begins",
    CHUNKED + b"-1\r\n": "a chunk begins",
    CHUNKED + b"1 1\r\n": "a chunk begins",
    CHUNKED + b"1;a=\r\n": "a chunk begins",
    CHUNKED + b"3\r\nabcd\r\n": "announced",
    CHUNKED + b"fffffffffffffffffffff\r\n": "more than",
    CHUNKED + b"1" * 2_000: "does not end",
    CHUNKED + b"1\nx": "does not end",
    CHUNKED + b"0\r\nno colon\r\n\r\n": "header line",
    CHUNKED + b"1\r\na\r\n" * 3_000: "too many chunks",
    CHUNKED + b"8000\r\n" + b"x" * 32_768 + b"\r\n8001\r\n": "more than",
    b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 70_000: "more than",
}


@pytest.mark.parametrize("answer", FORBIDDEN)
@pytest.mark.parametrize("size", [7, 100_000])
def test_what_http_forbids_is_refused_by_name(answer: bytes, size: int) -> None:
    protocol = Http11Protocol("h", None)
    with pytest.raises(ProtocolError, match=FORBIDDEN[answer]):  # noqa: PT012 - any part may raise
        for start in range(0, len(answer), size):
            protocol.receive(answer[start : start + size])
    assert not protocol.replies


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (b"\x81\x81abcdx", "masked"),
        (b"\x82\x01x", "does not belong"),
        (b"\xc1\x01x", "does not belong"),
        (b"\x83\x01x", "does not belong"),
        (b"\x80\x01x", "does not belong"),
        (b"\x01\x01x\x81\x01x", "does not belong"),
        (b"\x09\x00", "does not belong"),
        (b"\x89\x7e\x00\x80" + b"x" * 128, "control frame"),
        (b"\x81\x7e\x00\x01x", "more bytes than it needs"),
        (b"\x81\x7f" + b"\xff" * 8, "at most"),
        (b"\x01\x7e\x80\x00" + b"x" * 32_768 + b"\x80\x7e\x80\x01" + b"x" * 32_769, "more than"),
        (b"\x89\x00" * 300, "at once"),
    ],
)
def test_what_websocket_forbids_is_refused_by_name(frames: bytes, message: str) -> None:
    protocol = WebSocketProtocol("h", None)
    protocol.receive(fuzz.handshake_answer(protocol.hello()))
    assert protocol.is_open
    with pytest.raises(ProtocolError, match=message):
        protocol.receive(frames)


def test_a_message_may_come_in_frames_with_pings_between() -> None:
    protocol = WebSocketProtocol("h", None)
    protocol.receive(b"HTTP/1.1 103 Early Hints\r\n\r\n" + fuzz.handshake_answer(protocol.hello()))
    pong = protocol.receive(b'\x01\x04{"se\x89\x01a\x00\x00\x89\x01b\x80\x05q":1}')
    assert [reply.body for reply in protocol.replies] == [BODY]
    assert fuzz.unmasked(pong) == b"b"  # of several pings the last one alone needs an answer


@pytest.mark.parametrize("changed", ["Upgrade: x", "Connection: x", "Sec-WebSocket-Accept: x"])
def test_a_handshake_that_opens_no_websocket_is_refused(changed: str) -> None:
    protocol = WebSocketProtocol("h", None)
    name = changed.partition(":")[0].encode()
    lines = fuzz.handshake_answer(protocol.hello()).split(b"\r\n")
    lines = [changed.encode() if line.startswith(name + b":") else line for line in lines]
    with pytest.raises(ProtocolError, match=r"handshake|key"):
        protocol.receive(b"\r\n".join(lines))


def test_an_answer_above_the_limit_of_its_endpoint_is_refused() -> None:
    protocol = Http11Protocol("h", None)
    protocol.request(Request(ACT, b"{}", 1, 100))
    with pytest.raises(ProtocolError, match="at most 100"):
        protocol.receive(b"HTTP/1.1 200 OK\r\ncontent-length: 101\r\n\r\n")


@pytest.mark.parametrize(
    "changes",
    [
        {"q_values": [10**400, 1]},
        {"q_values": [-(10**400), 1]},
        {"q_values": [math.inf, 1]},
        {"q_values": [1, "2"]},
        {"action": 10**400},
        {"action": -1},
        {"out_of_range": [1]},
        {"digest": None},
        {"status": 10**400},
        {"padding": "x" * 4_000_000},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_hostile_answer_is_one_lost_answer_with_a_reason(
    make: Make, transport: Transport, changes: dict[str, Any]
) -> None:
    is_hostile = True
    with (
        AnsweringService(
            lambda seq: right_answer(seq, **changes) if is_hostile else right_answer(seq)
        ) as service,
        make(service.address, transport=transport, deadline=PATIENT, fallback=0) as client,
    ):
        decision = client.act(STATE)
        assert (decision.source, decision.reason) == ("fallback", "invalid-response")
        is_hostile = False
        wait_for(lambda: client.act(STATE).source == "policy")


def test_a_forbidden_answer_is_one_lost_answer_and_is_named(make: Make) -> None:
    def respond(seq: int) -> bytes:
        if service.requests == 2:
            return b"HTTP/1.1 200 OK\r\ncontent-length : 5\r\n\r\n"
        body = right_answer(seq)
        return CHUNKED + b"%x;x\r\n%b\r\n0\r\nX: y\r\n\r\n" % (len(body), body)

    with (
        AnsweringService(respond) as service,
        make(service.address, deadline=PATIENT, fallback=0) as client,
    ):
        assert client.act(STATE).source == "policy"
        assert client.act(STATE).reason == "invalid-response"
        assert "content-length : 5" in client.last_error
        assert [client.act(STATE).source for _ in range(10)] == ["policy"] * 10


def test_a_body_may_end_with_the_connection(make: Make) -> None:
    with (
        AnsweringService(
            lambda seq: b"HTTP/1.0 200 OK\r\n\r\n" + right_answer(seq), ends=True
        ) as old,
        make(old.address, deadline=PATIENT, fallback=0) as client,
    ):
        assert [client.act(STATE).source for _ in range(5)] == ["policy"] * 5


class SlowlyRead(fuzz.ScriptedService):
    """Its answers come whole, and past the deadline: as if reading them had taken that long."""

    def answer(
        self, request: bytes, number: int, *, is_stream: bool, is_clean: bool
    ) -> fuzz.Answer:
        time.sleep(1.5 * SHORT)
        return super().answer(request, number, is_stream=is_stream, is_clean=is_clean)


def test_an_answer_that_was_read_too_late_is_a_fallback(transport: Transport) -> None:
    with fuzz.ScriptedPolicyClient(
        SlowlyRead(0), transport=transport, deadline=SHORT, fallback=0
    ) as client:
        wait_for(lambda: client.act(STATE).reason == "deadline")
        assert client.counters().answers == 0
        assert client.counters().late_answers >= 1


def test_hostile_and_unusual_answers_never_raise_and_unusual_ones_decide() -> None:
    findings = fuzz.run(20_000, 1)
    assert findings.faults == []
    assert findings.outcomes["policy"] > 5_000
    assert findings.outcomes["invalid-response"] > 5_000
