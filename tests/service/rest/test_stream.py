"""`WS /act/stream` over real sockets: answers what `POST /act` would, message by message."""

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest
from starlette.testclient import TestClient
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from models.bundle import Bundle
from tests.support.metrics import samples
from tests.support.project import ROOT
from tests.support.service import Start, clean_environment, free_port, wait_for

STATE = [0.0, 0.0, 0.05, 0.0]


@pytest.fixture
def stream(start: Start) -> Iterator[tuple[ClientConnection, str]]:
    with (
        start() as address,
        connect(f"{address.replace('http', 'ws')}/act/stream", compression="deflate") as stream,
    ):
        yield stream, address


def test_each_message_is_answered_as_act_would(client: TestClient) -> None:
    with client.websocket_connect("/act/stream") as stream:
        for message in (
            {"state": STATE},
            {"state": STATE, "seq": 7},
            {"state": [100, 0, 0, 0], "seq": 0},
        ):
            stream.send_json(message)
            assert stream.receive_json() == client.post("/act", json=message).json()
        stream.send_bytes(json.dumps({"state": STATE}).encode())
        assert stream.receive_json()["action"] == 1


@pytest.mark.parametrize(
    "message",
    [
        "{",
        "[]",
        '{"state":[1,2,3]}',
        '{"state":[1,2,3,NaN]}',
        '{"state":[3e38,3e38,3e38,3e38]}',
        "[" * 5_000,
    ],
)
def test_a_bad_message_is_answered_with_its_problem_and_the_channel_stays(
    client: TestClient, message: str
) -> None:
    with client.websocket_connect("/act/stream") as stream:
        stream.send_text(message)
        assert stream.receive_json() == client.post("/act", content=message).json()
        stream.send_json({"state": STATE})
        assert stream.receive_json()["action"] == 1


@pytest.mark.parametrize(
    ("seq", "echoed"), [(5, True), (-1, True), (True, False), ("5", False), (None, False)]
)
def test_a_problem_names_the_seq_that_it_is_about(
    client: TestClient, seq: object, echoed: bool
) -> None:
    with client.websocket_connect("/act/stream") as stream:
        stream.send_json({"state": [1, 2, 3], "seq": seq})
        problem = stream.receive_json()
        assert (problem.get("seq"), problem["status"]) == (seq if echoed else None, 422)


def test_if_match_holds_for_every_message(client: TestClient, committed: Bundle) -> None:
    with client.websocket_connect(
        "/act/stream", headers={"If-Match": f'"{committed.digest}"'}
    ) as stream:
        stream.send_json({"state": STATE})
        assert stream.receive_json()["action"] == 1
    with client.websocket_connect("/act/stream", headers={"If-Match": '"sha256:other"'}) as stream:
        for _ in range(2):
            stream.send_json({"state": STATE, "seq": 3})
            problem = stream.receive_json()
            assert (problem["status"], problem["seq"], "action" in problem) == (412, 3, False)


def test_messages_sent_ahead_are_answered_in_order(stream: tuple[ClientConnection, str]) -> None:
    channel, _ = stream
    for seq in range(200):
        channel.send(json.dumps({"state": STATE, "seq": seq}))
    assert [json.loads(channel.recv(5))["seq"] for _ in range(200)] == list(range(200))


def test_compression_is_not_agreed_on(stream: tuple[ClientConnection, str]) -> None:
    assert stream[0].protocol.extensions == []


def test_a_message_above_the_limit_closes_the_channel_with_the_protocols_code(
    stream: tuple[ClientConnection, str],
) -> None:
    channel, address = stream
    channel.send("x" * 20_000)
    with pytest.raises(ConnectionClosed) as closed:
        channel.recv(5)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1009
    assert httpx2.get(f"{address}/health/ready").status_code == 200


def test_clients_that_leave_in_any_way_leave_no_traceback(start: Start, tmp_path: Path) -> None:
    with start() as address:
        url = f"{address.replace('http', 'ws')}/act/stream"
        with connect(url) as orderly:
            orderly.send(json.dumps({"state": STATE}))
        with connect(url) as rude:
            for _ in range(50):
                rude.send(json.dumps({"state": STATE}))
            rude.socket.shutdown(socket.SHUT_RDWR)
        for message in (
            b"GET /act/stream HTTP/1.1\r\nHost: localhost\r\n"
            b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
            b"\x00" * 100,
        ):
            with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2]))) as raw:
                raw.sendall(message)
                raw.recv(100)
        time.sleep(0.2)
        assert httpx2.get(f"{address}/health/ready").status_code == 200
    assert "Traceback" not in (tmp_path / "service.log").read_text()


def test_a_reader_that_does_not_read_is_closed_and_others_are_answered(tmp_path: Path) -> None:
    port = free_port()
    log = tmp_path / "service.log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [sys.executable, "-m", "service", "--port", str(port), "--body-timeout", "1"],
            cwd=ROOT,
            env=clean_environment(),
            stdout=output,
            stderr=output,
        ) as process,
    ):
        try:
            wait_for(lambda: "startup complete" in log.read_text())
            with socket.create_connection(("127.0.0.1", port)) as reader:
                reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
                reader.sendall(
                    b"GET /act/stream HTTP/1.1\r\nHost: localhost\r\n"
                    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
                )
                reader.settimeout(0.2)
                message = b'{"state":[0,0,0,0]}'
                frame = bytes([0x81, 0x80 | len(message)]) + bytes(4) + message  # masked with zeros

                def closed() -> bool:
                    try:
                        reader.sendall(frame * 1_000)
                    except TimeoutError:
                        return False
                    except OSError:
                        return True
                    return False

                wait_for(closed)
            assert httpx2.get(f"http://127.0.0.1:{port}/health/ready").status_code == 200
        finally:
            process.terminate()
            process.wait(10)
    assert not re.search("Traceback", log.read_text())


def test_a_stream_that_asks_faster_than_it_may_is_told_so_and_stays(start: Start) -> None:
    with (
        start("--stream-rate", "20") as address,
        connect(f"{address.replace('http', 'ws')}/act/stream") as stream,
    ):
        for seq in range(60):  # the second may change meanwhile, once
            stream.send(json.dumps({"state": STATE, "seq": seq}))
        answers = [json.loads(stream.recv()) for _ in range(60)]
        assert [answer["seq"] for answer in answers] == list(range(60))
        assert 20 <= sum("action" in answer for answer in answers) <= 40
        assert {answer["status"] for answer in answers if "action" not in answer} == {429}
        time.sleep(1)
        stream.send(json.dumps({"state": STATE}))
        assert json.loads(stream.recv())["action"] == 1


def test_messages_in_fragments_and_those_sent_before_the_first_answer_are_answered_in_their_order(
    stream: tuple[ClientConnection, str],
) -> None:
    channel, _ = stream
    for seq in range(0, 40, 2):
        channel.send(json.dumps({"state": STATE, "seq": seq}))
        channel.send(iter(['{"state":[0,0,', "0.05,0]", f',"seq":{seq + 1}}}']))
    assert [json.loads(channel.recv())["seq"] for _ in range(40)] == list(range(40))


@pytest.mark.parametrize("path", ["/nowhere", "/act", "/v2/models/cartpole-dqn/infer", "/"])
def test_a_websocket_where_none_is_gets_404_and_is_told_of_the_one_that_is(
    start: Start, path: str
) -> None:
    with (
        start() as address,
        pytest.raises(InvalidStatus) as refused,
        connect(address.replace("http", "ws") + path),
    ):
        pass
    response = refused.value.response
    assert response.status_code == 404
    assert b"/act/stream" in (response.body or b"")
    assert "x-request-id" in response.headers


@pytest.mark.parametrize("flags", [(), ("--log-requests",)])
def test_a_stream_is_logged_only_where_requests_are_and_never_with_its_query(
    start: Start, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    with start("--log-format", "json", *flags) as address:
        for path, headers in (
            ("/act/stream?token=secret", {}),
            ("/act/stream?token=secret", {"Origin": "http://evil.example"}),
            ("/nowhere?token=secret", {}),
        ):
            where = address.replace("http", "ws") + path
            with suppress(InvalidStatus), connect(where, additional_headers=headers) as stream:
                stream.send(json.dumps({"state": STATE}))
                stream.recv()
        counted = samples(httpx2.get(f"{address}/metrics").text)
    assert counted["upright_requests_total", ("/act/stream", "403")] == 1
    log = (tmp_path / "service.log").read_text()
    assert "secret" not in log
    assert "WebSocket" not in log
    logged = [json.loads(line) for line in log.splitlines()]
    lines = [line for line in logged if line["logger"] == "upright.request"]
    asked = [line["status"] for line in lines if line["endpoint"] != "/metrics"]
    assert asked == ([200, 403, 404] if flags else [])
