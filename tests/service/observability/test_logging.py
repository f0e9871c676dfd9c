"""What is logged, of which requests, and in which form."""

import json
import re
import socket
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.sync.client import connect

from models.bundle import Bundle
from tests.support.metrics import ask_by_grpc
from tests.support.service import Start, free_port, refused

STATE = [
    0.01171875,
    -0.02734375,
    0.03515625,
    0.04296875,
]  # exact as 32-bit floats, with more digits than anything else that is printed
DIGITS = re.compile("01171875|02734375|03515625|04296875")
TRACE = "0af7651916cd43dd8448eb211c80319c"
HEADERS = {"X-Request-ID": "mine", "traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
FAILING = ("-m", "tests.support.failing_service")


def lines(log: Path) -> list[dict[str, Any]]:
    """Return every line of a log in JSON; each must be an object with the fields that all have."""
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert all({"event", "level", "timestamp", "logger"} <= set(line) for line in entries)
    return entries


def requests(log: Path) -> list[dict[str, Any]]:
    return [line for line in lines(log) if line["logger"] == "upright.request"]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "service.log"


@pytest.mark.parametrize("every", [("--log-requests",), ()])
def test_a_failure_is_one_line_with_its_ids_its_digest_and_its_traceback(
    start: Start, log: Path, committed: Bundle, every: tuple[str, ...]
) -> None:
    with start("--log-format", "json", *every, program=FAILING) as address:
        answer = httpx2.post(f"{address}/act", json={"state": STATE}, headers=HEADERS)
        assert answer.status_code == 500
    (line,) = requests(log)
    assert line["event"] == "request mine failed: no memory"
    assert line["level"] == "error"
    assert (line["request_id"], line["trace_id"], line["digest"]) == (
        "mine",
        TRACE,
        committed.digest,
    )
    assert (line["endpoint"], line["method"], line["status"]) == ("/act", "POST", 500)
    assert line["exception"].startswith("Traceback")
    assert "MemoryError: no memory" in line["exception"]
    assert not DIGITS.search(log.read_text())


def test_a_failure_of_the_open_inference_protocol_is_logged_under_the_id_that_its_caller_was_told(
    start: Start, log: Path
) -> None:
    body = {"inputs": [{"name": "state", "shape": [1, 4], "datatype": "FP32", "data": STATE}]}
    with start("--log-format", "json", program=FAILING) as address:
        answer = httpx2.post(f"{address}/v2/models/cartpole-dqn/infer", json=body)
        assert answer.status_code == 500
        assert (
            httpx2.post(f"{address}/v2/repository/models/cartpole-dqn/unload", json={}).status_code
            == 501
        )
    (failure,) = requests(log)
    assert failure["request_id"] == answer.headers["x-request-id"]
    assert "MemoryError" in failure["exception"]
    assert not DIGITS.search(log.read_text())


def test_good_and_refused_requests_are_logged_only_when_asked_for(start: Start, log: Path) -> None:
    with start("--log-format", "json") as address:
        assert httpx2.post(f"{address}/act", json={"state": STATE}).status_code == 200
        assert httpx2.post(f"{address}/act", json={"state": [1]}).status_code == 422
    assert requests(log) == []


def test_each_request_is_a_line_when_asked_for_without_its_state(
    start: Start, log: Path, committed: Bundle
) -> None:
    port = free_port()
    with start("--log-format", "json", "--log-requests", "--grpc-port", str(port)) as address:
        httpx2.post(f"{address}/act", json={"state": STATE}, headers=HEADERS)
        httpx2.post(f"{address}/act", json={"state": [STATE]})
        httpx2.post(f"{address}/act/batch", json={"states": [STATE] * 3})
        with connect(
            f"{address.replace('http', 'ws')}/act/stream", additional_headers=HEADERS, proxy=None
        ) as stream:
            stream.send(json.dumps({"state": STATE}))
            stream.recv()
        ask_by_grpc(port, STATE)
    act, refusal, batch, message, call = requests(log)
    assert (
        act.items()
        >= {
            "event": "request",
            "level": "info",
            "endpoint": "/act",
            "method": "POST",
            "status": 200,
            "action": 1,
        }.items()
    )
    assert (
        act.items()
        >= {
            "request_id": "mine",
            "trace_id": TRACE,
            "digest": committed.digest,
            "states": 1,
        }.items()
    )
    assert 0 < act["seconds"] < 10
    assert (refusal["status"], "action" in refusal, "trace_id" in refusal) == (422, False, False)
    assert (batch["endpoint"], batch["states"], "action" in batch) == ("/act/batch", 3, False)
    assert (message["endpoint"], message["status"], message["request_id"], message["action"]) == (
        "/act/stream",
        200,
        "mine",
        1,
    )
    assert (call["endpoint"], call["method"], call["status"], call["request_id"]) == (
        "grpc",
        "ModelInfer",
        200,
        "by-grpc",
    )
    assert not DIGITS.search(log.read_text())


def test_what_could_not_be_read_is_a_line_too(start: Start, log: Path) -> None:
    head = b"POST /act?x HTTP/1.1\r\nhost: localhost\r\nx-request-id: mine\r\n"
    sent = {
        400: b"nonsense\r\n\r\n",
        408: head + b"content-length: 22\r\n\r\n{",
        431: head + b"x: 1\r\n" * 200 + b"\r\n",
    }
    with start(
        "--log-format",
        "json",
        "--log-requests",
        "--body-timeout",
        "1",
        "--header-timeout",
        "1",
    ) as address:
        port = int(address.rpartition(":")[2])
        for status, request in sent.items():
            with socket.create_connection(("127.0.0.1", port), 10) as connection:
                connection.sendall(request.replace(b"?x", b"") if status == 408 else request)
                assert connection.recv(4_096).startswith(b"HTTP/1.1 %d" % status)
        with socket.create_connection(("127.0.0.1", port), 10) as connection:
            connection.sendall(head.replace(b"?x", b"") + b"content-length: 22\r\n\r\n{")
            time.sleep(0.1)
    no_http, slow, large, gone = requests(log)
    assert (no_http["status"], no_http["endpoint"], no_http["method"]) == (400, "other", "_OTHER")
    assert (slow["status"], slow["endpoint"], slow["method"], slow["request_id"]) == (
        408,
        "/act",
        "POST",
        "mine",
    )
    assert slow["seconds"] > 1
    assert (large["status"], large["request_id"]) == (431, "mine")
    assert (gone["status"], gone["endpoint"], gone["request_id"]) == (499, "/act", "mine")


def test_states_are_logged_when_they_are_asked_for(start: Start, log: Path) -> None:
    with start("--log-format", "json", "--log-requests", "--log-states") as address:
        httpx2.post(f"{address}/act", json={"state": STATE})
    assert requests(log)[0]["states"] == [STATE]


def test_states_without_request_lines_are_refused() -> None:
    code, error_text = refused("--log-states")
    assert (code, error_text.count("\n")) == (2, 1)
    assert "--log-states needs --log-requests" in error_text


def test_people_read_plain_lines(start: Start, log: Path) -> None:
    with start("--log-requests", program=FAILING) as address:
        httpx2.get(f"{address}/health/live")
        httpx2.post(f"{address}/act", json={"state": STATE}, headers=HEADERS)
    text = log.read_text()
    assert re.search(r"^\S+ \[info +\] Listening on http://127\.0\.0\.1:\d+$", text, re.MULTILINE)
    assert re.search(
        r"^\S+ \[info +\] request endpoint=/health/live method=GET status=200 ", text, re.MULTILINE
    )
    assert re.search(r"^\S+ \[error +\] request mine failed: no memory ", text, re.MULTILINE)
    assert "\nMemoryError: no memory\n" in text
    assert "\x1b" not in text  # no colours where nobody sees them
    assert not DIGITS.search(text)


def test_a_refusal_to_start_is_json_too(tmp_path: Path) -> None:
    code, error_text = refused("--log-format", "json", "--bundle", str(tmp_path))
    assert code == 1
    line = json.loads(error_text)
    assert line["level"] == "critical"
    assert str(tmp_path) in line["event"]


def test_several_processes_log_in_the_one_form(start: Start, log: Path) -> None:
    with start("--log-format", "json", "--workers", "2", "--log-requests") as address:
        assert httpx2.get(f"{address}/health/ready").status_code == 200
    assert [line["endpoint"] for line in requests(log)] == ["/health/ready"]
