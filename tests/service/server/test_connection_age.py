"""`--max-connection-age`: connections end in order, and their callers come back without a loss."""

import http.client
import json
import time
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from upright_client import PolicyClient
from upright_client.protocols.protocol import Transport
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from service.server.http.timeouts import ConnectionAge
from tests.support.clients import STATE
from tests.support.service import Start, free_port, reachable, wait_for

with warnings.catch_warnings():
    # What other people's modules warn of when they are imported is no claim of ours.
    warnings.simplefilter("ignore")
    import tritonclient.grpc

AGE = ("--max-connection-age", "1")
SECONDS = 2.8  # in which each connection becomes old at least once: 1.1 s and a look each second
BODY = json.dumps({"state": STATE}).encode()


@pytest.mark.parametrize(("method", "path"), [("POST", "/act"), ("GET", "/model")])
def test_the_last_answer_of_an_old_connection_says_so(start: Start, method: str, path: str) -> None:
    with start(*AGE) as address:
        connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=5)
        connection.connect()
        began, opened = time.monotonic(), connection.sock
        answers = 0
        while connection.sock is opened:  # it is closed by http.client after such an answer
            connection.request(method, path, BODY if method == "POST" else None)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200
            answers += 1
            time.sleep(0.02)
        assert answer.headers["connection"] == "close"
        assert answers > 10
        assert time.monotonic() - began > 0.85


def test_a_stream_ends_after_an_answer_and_says_that_the_service_goes_away(start: Start) -> None:
    with start(*AGE) as address, connect(f"{address.replace('http', 'ws')}/act/stream") as stream:
        received = 0
        while True:
            try:
                stream.send(BODY.decode())
                answer = stream.recv(5)
            except ConnectionClosed as closed:
                code = None if closed.rcvd is None else closed.rcvd.code
                break
            assert json.loads(answer)["action"] == 1
            received += 1
            time.sleep(0.05)
        assert code == 1001
        assert received > 5


def test_an_idle_stream_ends_too(start: Start) -> None:
    with start(*AGE) as address, connect(f"{address.replace('http', 'ws')}/act/stream") as stream:
        with pytest.raises(ConnectionClosed) as closed:
            stream.recv(6)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001


@pytest.mark.parametrize("transport", ["http", "stream"])
def test_the_client_misses_no_step(start: Start, transport: Transport) -> None:
    with (
        start(*AGE) as address,
        PolicyClient(address, fallback=0, deadline=0.5, transport=transport) as client,
    ):
        wait_for(lambda: client.ready())
        until = time.monotonic() + SECONDS
        decisions = []
        while time.monotonic() < until:
            decisions.append(client.act(STATE))
            time.sleep(0.01)
        assert {decision.source for decision in decisions} == {"policy"}
        assert client.counters().reconnects >= 1


def test_calls_over_grpc_go_on(start: Start) -> None:
    port = free_port()
    state = tritonclient.grpc.InferInput("state", [1, 4], "FP32")
    state.set_data_from_numpy(np.array([STATE], np.float32))
    with start(*AGE, "--grpc-port", str(port)):
        wait_for(lambda: reachable(port))
        with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{port}") as client:
            until = time.monotonic() + SECONDS
            while time.monotonic() < until:
                assert client.infer("cartpole-dqn", [state]).as_numpy("action").tolist() == [1]


def test_ages_are_spread_so_that_not_all_come_back_at_once() -> None:
    def is_old(at: float) -> Callable[[ConnectionAge], bool]:
        return lambda age: age.exceeds(100, time.perf_counter() + at)

    ages = [ConnectionAge() for _ in range(200)]
    assert not any(map(is_old(89), ages))
    assert 20 < sum(map(is_old(100), ages)) < 180
    assert all(map(is_old(111), ages))
    assert not any(age.exceeds(0, time.perf_counter() + 1e9) for age in ages)
