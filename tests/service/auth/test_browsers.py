"""A page of another origin changes nothing, opens no stream, and reads nothing by a false name."""

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from models.bundle import Bundle
from service.inference.loading import load
from service.state import ServiceState
from tests.support.project import CHANGING, COMMITTED
from tests.support.raw_http import BothPaths, ask, both_paths, request, serving
from tests.support.service import Start, settings

FOREIGN = [
    {"origin": "http://evil.example"},
    {"origin": "null"},
    {"origin": "http://127.0.0.1:1"},  # another port is another origin
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"sec-fetch-site": "cross-site", "origin": "http://OWN"},  # the browser knows better
]
HANDSHAKE = {
    "upgrade": "websocket",
    "connection": "upgrade",
    "sec-websocket-version": "13",
    "sec-websocket-key": "AAAAAAAAAAAAAAAAAAAAAA==",
}
BODY = b'{"state":[0,0,0.05,0]}'


@pytest.fixture(scope="module")
def address(committed: Bundle) -> Iterator[str]:
    del committed
    from tests.support.service import free_port, service

    port = free_port()
    arguments = ("--shadow", str(COMMITTED), "--cors-origin", "http://friend.example")
    with service(port, *arguments):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def both(committed: Bundle) -> Iterator[BothPaths]:
    with both_paths(settings(), ServiceState(load(committed, "onnx"))) as both:
        yield both


def with_own(headers: dict[str, str], address: str) -> dict[str, str]:
    """Return headers with the address of the service in the place of its name here."""
    return {name: value.replace("http://OWN", address) for name, value in headers.items()}


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
@pytest.mark.parametrize("path", CHANGING)
def test_a_foreign_page_changes_nothing(address: str, path: str, headers: dict[str, str]) -> None:
    answer = httpx2.post(address + path, headers=with_own(headers, address))
    assert answer.status_code == 403
    assert "--cors-origin" in answer.text


@pytest.mark.parametrize("path", CHANGING)
def test_programs_the_services_own_page_and_allowed_pages_are_not_refused(
    address: str, path: str
) -> None:
    for headers in (
        {},
        {"origin": address, "sec-fetch-site": "same-origin"},
        {"origin": "http://friend.example", "sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "none"},
    ):
        answer = httpx2.post(address + path, headers=headers)
        assert answer.status_code not in (403, 421)


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_a_foreign_page_opens_no_stream(address: str, headers: dict[str, str]) -> None:
    sent = HANDSHAKE | with_own(headers, address)
    assert httpx2.get(f"{address}/act/stream", headers=sent).status_code == 403


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example"])
@pytest.mark.parametrize("path", ["/act", "/act/batch", "/v2/models/cartpole-dqn/infer", "/model"])
def test_a_service_on_loopback_is_called_by_its_names_alone(
    both: BothPaths, path: str, host: str
) -> None:
    [sent] = request("POST" if path != "/model" else "GET", path, [], [BODY])
    sent = sent.replace(b"host: localhost", b"host: %b" % host.encode())
    for port in (both.fast, both.asgi):
        [answer] = ask(port, [sent])
        assert answer.status == 421
        assert b"--allowed-host" in answer.body


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:80", "127.0.0.1:9", "[::1]:7", "localhost."]
)
def test_loopbacks_names_are_answered_by_both_paths(both: BothPaths, host: str) -> None:
    [sent] = request("POST", "/act", [], [BODY])
    sent = sent.replace(b"host: localhost", b"host: %b" % host.encode())
    for port in (both.fast, both.asgi):
        assert [answer.status for answer in ask(port, [sent, sent], answers=2)] == [200, 200]


def test_more_names_can_be_allowed(start: Start) -> None:
    with start("--allowed-host", "gateway.example,[fd00::1]") as address:
        for host, status in (
            ("gateway.example", 200),
            ("Gateway.example:443", 200),
            ("[fd00::1]:8000", 200),
            ("localhost", 200),
            ("evil.example", 421),
        ):
            answer = httpx2.get(f"{address}/health/ready", headers={"host": host})
            assert answer.status_code == status


def test_a_unix_socket_may_be_called_by_any_name(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "upright.sock"
    with start("--uds", str(path)), socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(path))
        caller.sendall(b"GET /health/ready HTTP/1.1\r\nhost: whatever\r\n\r\n")
        assert caller.recv(100).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "lines", [b"", b"host: localhost\r\nhost: localhost\r\n", b"host: a\r\nHost: b\r\n"]
)
@pytest.mark.parametrize("path", [b"/act", b"/model"])
def test_a_request_without_a_host_or_with_two_is_refused(
    both: BothPaths, lines: bytes, path: bytes
) -> None:
    sent = b"POST %b HTTP/1.1\r\n%bcontent-length: 22\r\n\r\n%b" % (path, lines, BODY)
    [answer] = ask(both.fast, [sent])
    assert answer.status == 400
    assert b"one Host" in answer.body


def test_http_1_0_may_come_without_a_host(both: BothPaths) -> None:
    [answer] = ask(both.fast, [b"GET /health/live HTTP/1.0\r\n\r\n"])
    assert answer.status == 200


@pytest.mark.parametrize("host", ["a b", "user@localhost", "localhost/x", "local\xffhost", "[::1"])
@pytest.mark.parametrize("path", ["/act", "/model"])
def test_what_can_be_no_host_is_refused(both: BothPaths, path: str, host: str) -> None:
    [sent] = request("POST", path, [], [BODY])
    sent = sent.replace(b"host: localhost", b"host: %b" % host.encode("latin-1"))
    [answer] = ask(both.fast, [sent])
    assert answer.status == 400
    assert b"no host" in answer.body


def test_each_request_of_a_connection_is_held_to_its_own_host(both: BothPaths) -> None:
    [sent] = request("POST", "/act", [], [BODY])
    foreign = sent.replace(b"host: localhost", b"host: evil.example")
    hosts = [sent, foreign, sent, sent, foreign, foreign, sent]
    answers = ask(both.fast, hosts, answers=len(hosts))
    assert [answer.status for answer in answers] == [200, 421, 200, 200, 421, 421, 200]


@pytest.mark.parametrize(
    ("host", "status"),
    [("127.0.0.1", 421), ("::1", 421), ("127.1", 421), ("localhost", 421), ("0.0.0.0", 200)],  # noqa: S104 - what is tried
)
def test_a_service_is_on_loopback_whatever_name_of_it_is_given(
    committed: Bundle, host: str, status: int
) -> None:
    with serving(
        settings(host=[host], allowed_host=[]), ServiceState(load(committed, "onnx"))
    ) as port:
        [sent] = request("POST", "/act", [], [BODY])
        [answer] = ask(port, [sent.replace(b"host: localhost", b"host: evil.example")])
        assert answer.status == status


@pytest.mark.parametrize("path", [b"/act", b"/health/ready", b"/model"])
@pytest.mark.parametrize(
    ("target", "status"),
    [(b"http://evil.example", 421), (b"http://localhost:80", 200), (b"http://[::1]:80", 200)],
)
def test_the_host_of_a_target_in_absolute_form_counts(
    both: BothPaths, path: bytes, target: bytes, status: int
) -> None:
    method = b"POST" if path == b"/act" else b"GET"
    for host in (b"localhost", b"evil.example"):
        lines = b"host: %b\r\ncontent-length: %d\r\n\r\n%b" % (host, len(BODY), BODY)
        sent = b"%b %b%b HTTP/1.1\r\n%b" % (method, target, path, lines)
        [answer] = ask(both.fast, [sent])
        assert answer.status == status
