"""What a hostile or clumsy client does to its connection harms nobody else."""

import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from models.bundle import Bundle
from service.auth.key_file import add_key, load_keys
from service.inference.loading import load
from service.server.http.request import HEADER_BYTES_LIMIT, HEADER_LINES_LIMIT
from service.state import ServiceState
from tests.support.metrics import samples
from tests.support.raw_http import (
    ACT,
    HANDSHAKE,
    MODEL,
    STATE,
    ask,
    frame,
    request,
    serving,
)
from tests.support.service import Start, settings

CHUNKED = (
    b"POST /act%b HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n16\r\n"
    + STATE
    + b"\r\n0\r\n"
)


@pytest.fixture(scope="module")
def port(committed: Bundle) -> Iterator[int]:
    with serving(
        settings(header_timeout=1, body_timeout=1), ServiceState(load(committed, "onnx"))
    ) as port:
        yield port


def said(port: int, *pieces: bytes, half_closes: bool = False) -> bytes:
    """Send pieces, and return everything that is answered until the service closes."""
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(0.05)
        if half_closes:
            connection.shutdown(socket.SHUT_WR)
        return connection.makefile("rb").read()


def statuses(answered: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+)", answered)]


def test_what_is_no_http_is_refused_after_the_answers_to_what_came_before(port: int) -> None:
    assert statuses(said(port, MODEL * 3 + ACT + b"nonsense\r\n\r\n")) == [200, 200, 200, 200, 400]
    assert statuses(said(port, MODEL + CHUNKED.replace(b"16", b"zz") % b"?x")) == [200, 400]


def test_who_asks_whether_to_go_on_and_goes_on_wrongly_is_only_refused(
    port: int, caplog: pytest.LogCaptureFixture
) -> None:
    head = (
        b"POST /act HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\n"
        b"transfer-encoding: chunked\r\n\r\n"
    )
    assert statuses(said(port, head + b"zz\r\n")) == [400]
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize(
    "head",
    [
        b"content-length: 22\r\ntransfer-encoding: chunked",
        b"content-length: 22\r\ncontent-length: 3",
        b"content-length: 22, 22",
        b"content-length : 22",
        b"transfer-encoding: xchunked",
        b"transfer-encoding: identity\r\ncontent-length: 22",
        b"x: 1\r\n folded: 2\r\ncontent-length: 22",
        b"x: nul\0l\r\ncontent-length: 22",
        b"x: a\rcontent-length: 22\r\ncontent-length: 22",
    ],
)
def test_a_head_that_two_servers_could_read_differently_is_refused_and_nothing_after_it_is_read(
    port: int, head: bytes
) -> None:
    assert statuses(
        said(port, b"POST /act HTTP/1.1\r\nhost: localhost\r\n%b\r\n\r\n" % head + STATE + ACT)
    ) == [400]


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /" + b"a" * 200_000,
        b"GET /model HTTP/1.1\r\nx: " + b"a" * 200_000,
        b"GET /model HTTP/1.1\r\n" + b"x: y\r\n" * (HEADER_LINES_LIMIT + 1) + b"\r\n",
        CHUNKED % b"" + b"x: " + b"a" * 200_000,
        CHUNKED % b"?x" + b"x: y\r\n" * 50_000,
        b"POST /act HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n16;"
        + b"a" * 200_000,
    ],
)
def test_more_around_a_body_than_a_request_may_have_is_refused(port: int, sent: bytes) -> None:
    before = samples(ask(port, [request("GET", "/metrics", [], [])[0]])[0].body.decode())
    answered = said(port, sent)
    after = samples(ask(port, [request("GET", "/metrics", [], [])[0]])[0].body.decode())
    assert statuses(answered) == [431]
    assert json.loads(answered.partition(b"\r\n\r\n")[2])["detail"].startswith(
        f"A request may have {HEADER_BYTES_LIMIT} bytes beside its body"
    )
    counted = ("upright_refused_requests_total", ("headers-too-large",))
    assert after[counted] == before[counted] + 1


def test_a_head_of_as_many_lines_as_may_be_and_a_body_in_chunks_of_one_byte_are_read(
    port: int,
) -> None:
    lines = [(b"x%d" % number, b"y" * 600) for number in range(HEADER_LINES_LIMIT - 2)]
    assert ask(port, request("POST", "/act", lines, [STATE]))[0].status == 200
    assert (
        ask(
            port,
            [
                b"".join(
                    request(
                        "POST",
                        "/act",
                        [],
                        [bytes([byte]) for byte in STATE + b" " * 5_000],
                        chunked=True,
                    )
                )
            ],
        )[0].status
        == 200
    )


def test_header_lines_after_a_body_change_nothing(port: int) -> None:
    for path in (b"", b"?asgi"):
        assert (
            ask(port, [CHUNKED % path + b'if-match: "other"\r\nx-request-id: late\r\n\r\n'])[0][
                "x-request-id"
            ]
            != b"late"
        )


def test_an_answer_that_was_given_before_its_body_came_is_the_only_one(port: int) -> None:
    assert statuses(
        said(port, b"POST /nowhere HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\n\r\n")
    ) == [404]


def test_a_client_that_sends_all_at_once_and_closes_its_half_gets_all_answers(port: int) -> None:
    sent = MODEL * 20 + ACT * 3 + request("POST", "/act?x", [], [STATE])[0] * 20
    assert statuses(said(port, sent, half_closes=True)) == [200] * 43


def test_ten_thousand_requests_at_once_are_answered_and_do_not_keep_others_waiting(
    port: int,
) -> None:
    """They are read in slices: another client is served between two of them, before the last."""
    with socket.create_connection(("127.0.0.1", port), 10) as greedy:
        greedy.sendall(ACT * 1_000)  # not more than the sockets hold, so that this returns
        assert ask(port, [ACT])[0].status == 200
        answered = greedy.makefile("rb")
        for _ in range(1_000):
            assert answered.readline() == b"HTTP/1.1 200 OK\r\n"
            while (line := answered.readline()) != b"\r\n":
                if line.startswith(b"content-length"):
                    length = int(line.split()[1])
            answered.read(length)
    for path in ("/act", "/act?asgi"):
        sent = request("POST", path, [], [STATE])[0]
        assert {answer.status for answer in ask(port, [sent * 300] * 3, answers=900)} == {200}


def test_offers_to_speak_http_2_one_after_the_other_are_all_declined(port: int) -> None:
    offer = [
        (b"connection", b"Upgrade, HTTP2-Settings"),
        (b"upgrade", b"h2c"),
        (b"http2-settings", b"AA"),
    ]
    sent = request("POST", "/act", offer, [STATE])[0]
    assert {answer.status for answer in ask(port, [sent * 2_000], answers=2_000)} == {200}
    closing = sent.replace(b"Upgrade, HTTP2", b"Upgrade, close, HTTP2")
    assert statuses(said(port, closing)) == [200]


def test_who_never_reads_its_answers_is_reset(port: int) -> None:
    """On the ASGI path too, where each of its requests would count as one in flight."""
    with socket.create_connection(("127.0.0.1", port), 10) as silent:
        silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        with pytest.raises(ConnectionError):  # noqa: PT012 - it comes at the service's time-out
            while True:
                silent.sendall(MODEL * 100)


def test_who_reads_slowly_gets_the_whole_answer(start: Start) -> None:
    body = b'{"states":[%b]}' % b",".join([b"[0,0,0.05,0]"] * 10_000)
    with start("--body-timeout", "3", "--keep-alive", "2") as address:
        connection = HTTPConnection("127.0.0.1", urlsplit(address).port, timeout=10)
        connection.connect()
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        began = time.monotonic()
        connection.request("POST", "/act/batch", body)
        answer, content = connection.getresponse(), b""
        while part := answer.read(8_192):
            content += part
            time.sleep(0.1)
        connection.close()
    assert time.monotonic() - began > 5
    assert len(json.loads(content)["actions"]) == 10_000


def test_nothing_is_kept_for_a_client_that_is_reset(start: Start) -> None:
    """An orderly end would mean that the system had kept what was left for the client."""
    with (
        start("--body-timeout", "1") as address,
        socket.create_connection(("127.0.0.1", urlsplit(address).port or 0), 10) as silent,
    ):
        silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        silent.sendall(MODEL * 400)
        time.sleep(3)
        with pytest.raises(ConnectionResetError):  # noqa: PT012 - it comes after what had reached this machine
            while silent.recv(65_536):
                pass


def test_a_head_request_is_answered_as_get_is_without_the_body(port: int) -> None:
    for path in ("/model", "/health/ready", "/metrics", "/v2", "/v2/health/ready"):
        head, get = (
            ask(port, request(method, path, [], []), has_body=method == "GET")[0]
            for method in ("HEAD", "GET")
        )
        assert head.status == get.status == 200
        if path != "/metrics":  # which counts the one before
            assert head["content-length"] == get["content-length"]
    assert ask(port, request("HEAD", "/act", [], []), has_body=False)[0].status == 405


def test_the_stream_endpoint_asked_without_a_websocket_says_what_it_needs(port: int) -> None:
    answer = ask(port, request("GET", "/act/stream", [], []))[0]
    assert (answer.status, answer["upgrade"]) == (426, b"websocket")


def test_a_message_that_comes_with_its_handshake_is_answered(port: int) -> None:
    answered = said(port, HANDSHAKE + frame(STATE) + frame(b"\x03\xe8", 8))
    assert statuses(answered) == [101]
    assert answered.count(b'"action":1') == 1


@pytest.mark.parametrize(
    "handshake",
    [
        HANDSHAKE.replace(b"\r\n\r\n", b"\r\ncontent-length: 3\r\n\r\nabc"),
        HANDSHAKE.replace(b"\r\n\r\n", b"\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
        HANDSHAKE.replace(b"\r\n\r\n", b"\r\nx: " + b"y" * 9_000 + b"\r\n\r\n"),
        HANDSHAKE.replace(b"GET", b"POST"),
        HANDSHAKE.replace(b": 13", b": 7"),
        HANDSHAKE.replace(b"/act/stream", b"/elsewhere"),
    ],
)
def test_a_handshake_that_cannot_be_is_refused_and_closed(port: int, handshake: bytes) -> None:
    (status,) = statuses(said(port, handshake))
    assert 400 <= status < 500


def test_a_websocket_cannot_overtake_answers(port: int) -> None:
    assert statuses(said(port, MODEL * 3 + HANDSHAKE + frame(STATE))) == [200, 200, 200, 400]


def test_messages_before_a_close_are_answered_and_messages_after_it_are_not(port: int) -> None:
    answered = said(port, HANDSHAKE, frame(STATE) * 3 + frame(b"\x03\xe8", 8) + frame(STATE))
    assert answered.count(b'"action":1') == 3
    answered = said(port, HANDSHAKE, frame(STATE) * 2 + frame(b"\xff\xfe") + frame(STATE))
    assert answered.count(b'"action":1') == 2
    assert answered.endswith(b"\x88\x02\x03\xef")


def test_what_is_no_text_is_refused_without_a_word_in_the_log(
    port: int, caplog: pytest.LogCaptureFixture
) -> None:
    said(port, HANDSHAKE, frame(b"\xff\xfe"))
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_a_message_in_parts_without_content_is_one_message(port: int) -> None:
    empty = frame(b"", 0, final=False)
    parts = (
        frame(STATE[:5], final=False) + empty * 10_000 + frame(STATE[5:], 0) + frame(b"\x03\xe8", 8)
    )
    assert said(port, HANDSHAKE, parts).count(b'"action":1') == 1


@pytest.mark.parametrize("path", ["/act", "/act/batch"])
def test_a_byte_order_mark_and_an_encoding_are_named(port: int, path: str) -> None:
    [sent] = request("POST", path, [], [b"\xef\xbb\xbf" + b'{"state":[0,0,0,0]}'])
    [answer] = ask(port, [sent])
    assert answer.status == 400
    assert b"byte order mark" in answer.body
    [sent] = request("POST", path, [(b"content-encoding", b"gzip")], [b"\x1f\x8b"])
    [answer] = ask(port, [sent])
    assert answer.status == 415
    assert b"gzip" in answer.body
    [sent] = request("POST", "/act", [(b"content-encoding", b"identity")], [STATE])
    assert ask(port, [sent])[0].status == 200


def test_many_unknown_fields_are_refused_by_the_first(port: int) -> None:
    keys = b",".join(b'"%d":1' % number for number in range(200_000))
    [sent] = request("POST", "/act/batch", [], [b'{"states":[[0,0,0,0]],' + keys + b"}"])
    [answer] = ask(port, [sent])
    assert answer.status == 422
    assert b'"pointer":"#/0"' in answer.body
    again = b'"seq":1,' * 1_000
    [sent] = request("POST", "/act/batch", [], [b"{" + again + b'"states":[[0,0,0,0]]}'])
    assert ask(port, [sent])[0].status == 422


def test_a_body_whose_key_is_wrong_is_hardly_read(committed: Bundle, tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    add_key(file, "somebody", ["act"], sha256(b"right").hexdigest())
    state = ServiceState(load(committed, "onnx"), keys=load_keys(file))
    with serving(settings(keys=file), state) as port:
        head = b"POST /act/batch HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
        chunk = b"1\r\n \r\n" * 10_000
        sent = 0
        with socket.create_connection(("127.0.0.1", port), 10) as connection:
            connection.sendall(head)
            assert connection.recv(100).startswith(b"HTTP/1.1 401 ")  # before any of the body
            with suppress(ConnectionError):
                while sent < 100:
                    connection.sendall(chunk)
                    sent += 1
            connection.settimeout(10)
            with suppress(ConnectionError):
                while connection.recv(65_536):
                    pass


@pytest.mark.parametrize("path", ["/act", "/act/batch", "/v2/models/cartpole-dqn/infer"])
def test_who_asks_before_sending_too_much_is_refused_before_it_is_sent(
    port: int, path: str
) -> None:
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\n"
    answered = said(port, f"{head}content-length: 100000000\r\n\r\n".encode())
    assert statuses(answered) == [413]


def test_who_asks_before_sending_what_can_be_read_is_told_to_go_on(port: int) -> None:
    head = b"POST /act HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\nconnection: close\r\n"
    answered = said(port, head + b"content-length: %d\r\n\r\n" % len(STATE), STATE)
    assert statuses(answered) == [100, 200]


@pytest.mark.parametrize(
    "body",
    [
        b'{"x":[' + b"[0,0,0,0]," * 200_000 + b"0]}",
        b'{"states":[[0,0,0,0]],"seq":[' + b"1," * 900_000 + b"1]}",
        b'{"states":[' + b"1," * 900_000 + b"1]}",
    ],
    ids=["an unknown field", "no number", "no states"],
)
def test_a_batch_of_more_than_may_be_is_refused_before_it_is_validated(
    port: int, body: bytes
) -> None:
    [answer] = ask(port, request("POST", "/act/batch", [], [body]))
    assert answer.status == 422
    (error,) = json.loads(answer.body)["errors"]
    assert error["pointer"] in ("#/x", "#")


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (b'{"inputs":[{%b}]}', b"1,000 strings"),
        (b'{"inputs":[],"parameters":{%b}}', b"1,000 strings"),
        (b'{"inputs":[],%b}', b"1,000 strings"),
        (b'{"inputs":[],"outputs":[' + b"1," * 900_000 + b"1]}", b"more values"),
    ],
)
@pytest.mark.parametrize("path", ["/v2/models/cartpole-dqn/infer", "/v2/repository/index"])
def test_many_fields_below_v2_are_refused_before_they_are_read(
    port: int, path: str, document: bytes, reason: bytes
) -> None:
    fields = b",".join(b'"%d":1' % number for number in range(150_000))
    body = document % fields if b"%b" in document else document
    [answer] = ask(port, request("POST", path, [], [body]))
    assert answer.status == 400
    assert reason in answer.body
