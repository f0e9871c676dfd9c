"""The protocol's time-outs and limits hold, while everybody else is served."""

import json
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from models.bundle import Bundle
from service.inference.loading import load
from service.state import ServiceState
from tests.support.metrics import samples
from tests.support.raw_http import ask, request, serving
from tests.support.service import settings

ACT = request("POST", "/act", [], [b'{"state":[0,0,0.05,0]}'])[0]
METRICS = request("GET", "/metrics", [], [])


@pytest.fixture(scope="module")
def port(committed: Bundle) -> Iterator[int]:
    with serving(
        settings(header_timeout=1, body_timeout=1, keep_alive=2),
        ServiceState(load(committed, "onnx")),
    ) as port:
        yield port


def held(port: int, sent: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), 10)
    connection.sendall(sent)
    return connection


def eventually(holds: Callable[[], bool]) -> None:
    for _ in range(500):
        if holds():
            return
        time.sleep(0.02)
    raise AssertionError("it never came to be")


@pytest.mark.parametrize(
    ("sent", "part"),
    [
        (b"POST /a", "headers"),
        (b"POST /act HTTP/1.1\r\nhost: localhost\r\nx", "headers"),
        (ACT[:-5], "body"),  # on the fast path
        (
            ACT.replace(b"/act ", b"/v2/models/cartpole-dqn/infer ")[:-5],
            "body",
        ),  # on the ASGI path
    ],
)
def test_a_request_that_comes_too_slowly_gets_408_and_its_connection_is_closed(
    port: int, sent: bytes, part: str
) -> None:
    before = samples(ask(port, METRICS)[0].body.decode())["upright_slow_requests_total", (part,)]
    with held(port, sent) as slow:
        answer = slow.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert (
        json.loads(answer.partition(b"\r\n\r\n")[2])["detail"]
        == f"The request's {part} did not come in time"
    )
    assert (
        samples(ask(port, METRICS)[0].body.decode())["upright_slow_requests_total", (part,)]
        == before + 1
    )


@pytest.mark.parametrize("sent", [b"", ACT, b"".join(request("GET", "/health/live", [], []))])
def test_a_connection_that_asks_nothing_more_is_closed(port: int, sent: bytes) -> None:
    with held(port, sent) as idle:
        assert idle.makefile("rb").read().count(b"HTTP/1.1 200 OK") == (1 if sent else 0)


def test_a_slow_request_after_a_good_one_times_out_too(port: int) -> None:
    with held(port, ACT + b"GET /he") as slow:
        answer = slow.makefile("rb").read()
    assert answer.count(b"HTTP/1.1 200 OK") == 1
    assert b"HTTP/1.1 408 " in answer


def test_requests_past_the_concurrency_limit_get_503_but_health_and_metrics_are_answered(
    committed: Bundle,
) -> None:
    with serving(
        settings(max_concurrent_requests=3), ServiceState(load(committed, "onnx"))
    ) as port:
        _fill(port)


def _fill(port: int) -> None:
    waiting = [held(port, ACT[:-5]) for _ in range(2)] + [
        held(port, ACT.replace(b"/act ", b"/v2/models/cartpole-dqn/infer ")[:-5])
    ]
    try:
        eventually(lambda: ask(port, request("GET", "/model", [], []))[0].status == 503)
        refused = ask(port, [ACT[:-5]])[0]
        assert (refused.status, refused["retry-after"]) == (503, b"1")
        assert json.loads(refused.body)["type"] == "urn:upright:problem:too-busy"
        triton = ask(port, request("GET", "/v2", [], []))[0]
        assert triton.status == 503
        assert "try again" in json.loads(triton.body)["error"]
        for path in ("/health/live", "/health/ready", "/metrics", "/v2/health/ready"):
            assert ask(port, request("GET", path, [], []))[0].status == 200
        assert (
            ask(port, [ACT])[0].status == 200
        )  # a request that comes whole is answered at once, and never counts
    finally:
        for connection in waiting:
            connection.close()
    eventually(lambda: ask(port, request("GET", "/model", [], []))[0].status == 200)


def test_who_does_not_read_is_not_read_and_loses_nothing(port: int) -> None:
    """Far more answers than the sockets hold; the client reads once no more can be sent."""
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.setblocking(False)
        sent = 0
        stuck = time.monotonic() + 0.5
        while time.monotonic() < stuck:
            try:
                sent += connection.send((ACT * 1000)[sent % len(ACT) :])
                stuck = time.monotonic() + 0.5
            except BlockingIOError:
                time.sleep(0.01)
        connection.setblocking(True)
        answers = 0
        status_line = b"HTTP/1.1 200 OK"
        tail = b""
        while answers < sent // len(ACT):
            received = connection.recv(1_000_000)
            assert received, f"closed after {answers} of {sent // len(ACT)} answers"
            data = tail + received
            answers += data.count(status_line)
            tail = data[1 - len(status_line) :]  # where another may have begun
    assert sent > 100 * len(ACT)
