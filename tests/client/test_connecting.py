"""How a connection comes about: names with several addresses, slow peers, other systems."""

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from upright_client import PolicyClient
from upright_client.connections.address import parse_address
from upright_client.connections.connecting import Endpoint, order_endpoints
from upright_client.errors import AccessDeniedError
from upright_client.protocols.websocket import WebSocketProtocol

from tests.client.answering_service import AnsweringService, right_answer
from tests.support.clients import PATIENT, SHORT, STATE, Client, InLoop, Make
from tests.support.project import ROOT
from tests.support.service import free_port, wait_for

NAME = "two-addresses.example"


@pytest.fixture(params=["threads", "asyncio"])
def make(request: pytest.FixtureRequest) -> Make:
    return PolicyClient if request.param == "threads" else InLoop


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that never answers: its queue is full, so the kernel drops what asks to connect."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(8):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                waiting.connect(listener.getsockname())
        yield listener.getsockname()[1]


@pytest.fixture
def resolve_to(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let `NAME` stand for ports of this machine, which no name server can be made to say."""
    resolve = socket.getaddrinfo

    def resolve_to(*ports: int) -> None:
        def getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
            if host != NAME:
                return resolve(host, *arguments, **options)
            return [
                (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in ports
            ]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    return resolve_to


def acts(client: Client) -> bool:
    """Call once, whatever comes of it: an asynchronous client connects from its first call on."""
    client.act(STATE)
    return True


def test_a_silent_first_address_does_not_hide_the_second(
    make: Make, silent_port: int, resolve_to: Any
) -> None:
    with AnsweringService(right_answer) as service:
        resolve_to(silent_port, service.port)
        with make(f"http://{NAME}:1", deadline=PATIENT, fallback=0) as client:
            assert client.act(STATE).source == "policy"


def test_five_silent_addresses_do_not_hide_the_sixth(
    make: Make, silent_port: int, resolve_to: Any
) -> None:
    with AnsweringService(right_answer) as service:
        resolve_to(*[silent_port] * 5, service.port)
        with make(f"http://{NAME}:1", deadline=PATIENT, fallback=0) as client:
            assert client.act(STATE).source == "policy"


def test_a_refusing_first_address_does_not_hide_the_second(make: Make, resolve_to: Any) -> None:
    with AnsweringService(right_answer) as service:
        resolve_to(free_port(), service.port)
        with make(f"http://{NAME}:1", deadline=PATIENT, fallback=0) as client:
            assert client.act(STATE).source == "policy"


def test_a_connection_that_never_comes_has_a_reason_in_words(
    make: Make, silent_port: int, resolve_to: Any
) -> None:
    resolve_to(silent_port, silent_port)
    with make(f"http://{NAME}:1", deadline=SHORT, fallback=0) as client:
        wait_for(lambda: acts(client) and "no answer within" in client.last_error)
        assert client.act(STATE).reason == "disconnected"
        assert NAME in client.last_error


def test_every_fallback_has_a_reason_in_words(make: Make, silent_port: int) -> None:
    for address in (f"http://127.0.0.1:{silent_port}", f"http://127.0.0.1:{free_port()}"):
        with make(address, deadline=SHORT, fallback=0) as client:
            for _ in range(10):
                client.act(STATE)
                assert client.last_error.strip()
            client.close()
            assert client.act(STATE).reason == "closed"
            assert client.last_error.strip()


def test_families_take_turns_and_the_resolvers_first_one_begins() -> None:
    six, four = socket.AF_INET6, socket.AF_INET
    infos: Any = [
        (family, socket.SOCK_STREAM, 6, "", (host, 1))
        for family, host in [(six, "a"), (six, "b"), (six, "c"), (four, "d"), (four, "e")]
    ]
    assert order_endpoints(infos) == [
        Endpoint(six, ("a", 1)),
        Endpoint(four, ("d", 1)),
        Endpoint(six, ("b", 1)),
        Endpoint(four, ("e", 1)),
        Endpoint(six, ("c", 1)),
    ]


class DrippingService:
    """Answers every handshake with a byte each 4 ms, without end."""

    def __init__(self) -> None:
        self.accepted = 0
        self._ended = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.02)
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._drip)

    def __enter__(self) -> "DrippingService":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._listener.close()

    def _drip(self) -> None:
        connections: list[tuple[socket.socket, Iterator[int]]] = []
        while not self._ended.wait(0.004):
            with contextlib.suppress(TimeoutError):
                self._listener.settimeout(0.001)
                connections.append(
                    (self._listener.accept()[0], iter(b"HTTP/1.1 101 " + b"x" * 9_999))
                )
                self.accepted += 1
            for connection, rest in connections:
                with contextlib.suppress(OSError):
                    connection.send(bytes([next(rest)]))
        for connection, _ in connections:
            connection.close()


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_dripped_handshake_is_given_up_and_holds_up_nobody(make: Make, scheme: str) -> None:
    with (
        DrippingService() as service,
        make(
            f"{scheme}://127.0.0.1:{service.port}",
            transport="stream",
            deadline=SHORT,
            fallback=0,
        ) as client,
    ):
        assert client.act(STATE).source == "fallback"
        wait_for(lambda: acts(client) and service.accepted >= 3, 10)
        assert "no connection" in client.last_error
        client.close()
        # close() does not wait for the handshake, and leaves no thread in it.
        assert not [thread for thread in threading.enumerate() if thread.name == "upright-client-0"]


def test_closing_while_an_address_is_silent_leaves_no_thread(silent_port: int) -> None:
    with PolicyClient(f"http://127.0.0.1:{silent_port}", deadline=5.0, fallback=0):
        time.sleep(0.05)  # the connecting thread waits for an answer that never comes
    assert not [thread for thread in threading.enumerate() if "upright-client" in thread.name]


@pytest.mark.parametrize("host", ["a" * 64, "a..b", f"{'a.' * 200}b", "\u2603" * 64])
def test_a_name_that_no_host_can_have_is_refused_at_once(make: Make, host: str) -> None:
    with pytest.raises(ValueError, match="host"):
        make(f"http://{host}:1", fallback=0)


@pytest.mark.parametrize(
    "address", ["http://h:99999", "http://[::1", "http://h:x", "unix:", "/a\0b"]
)
def test_other_addresses_that_make_no_sense_are_refused(address: str) -> None:
    with pytest.raises(ValueError, match="expected http"):
        parse_address(address)


@pytest.mark.parametrize("path", ["/act", "/policy/act/", "/act/stream", "/act/batch"])
def test_the_address_of_an_endpoint_is_refused_by_what_is_wrong_with_it(path: str) -> None:
    with pytest.raises(ValueError, match="the address is the service's, without the path of an"):
        parse_address(f"http://127.0.0.1:8000{path}")


@pytest.mark.parametrize(
    ("key", "match"), [("", "empty"), (" ", "empty"), ("Bearer upright_x", "without the word")]
)
def test_a_key_that_is_none_is_refused_and_not_shown(make: Make, key: str, match: str) -> None:
    with pytest.raises(ValueError, match=match) as raised:
        make("http://127.0.0.1:1", fallback=0, key=key)
    assert "upright_x" not in str(raised.value)


REFUSAL = b"HTTP/1.1 401 Unauthorized\r\n"


@pytest.mark.parametrize(
    ("pieces", "detail"),
    [
        ((REFUSAL + b"Content-Length: 15\r\n\r\n", b'{"detail":', b'"no"}'), ": no"),
        ((REFUSAL + b"\r\n", b'{"detail":"no"}'), ": no"),  # its end is that of the connection
        ((REFUSAL + b"Content-Length: 500\r\n\r\n", b'{"detail":"no'), ""),
        ((REFUSAL + b"Content-Length: 4\r\n\r\nnone",), ""),
        ((REFUSAL + b"Content-Length: x\r\n\r\n",), ""),
        ((REFUSAL + b"Transfer-Encoding: chunked\r\n\r\n", b"f\r\n", b'{"detail":"no"}'), ""),
    ],
)
def test_why_a_stream_is_refused_is_told_however_it_comes(
    pieces: tuple[bytes, ...], detail: str
) -> None:
    protocol = WebSocketProtocol("h", "key")

    def come() -> None:
        for piece in pieces:
            for start in range(len(piece)):
                protocol.receive(piece[start : start + 1])
        protocol.receive_end()

    with pytest.raises(AccessDeniedError) as raised:
        come()
    assert str(raised.value) == f"the stream was not opened: 401 Unauthorized{detail}"


# What Windows and macOS lack is taken away before anything is imported.
ANOTHER_SYSTEM = """
import sys
import _socket, select
for module, names in ((_socket, ("AF_UNIX", "socketpair")), (select, ("poll", "epoll"))):
    for name in names:
        delattr(module, name)
import asyncio, socket
from upright_client import AsyncPolicyClient, PolicyClient

address, state = sys.argv[1], (0.0, 0.0, 0.05, 0.0)
try:
    PolicyClient("/tmp/act.sock", fallback=0)
except ValueError as error:
    assert "no Unix sockets" in str(error), error
else:
    raise AssertionError("a Unix socket was accepted")


async def main(transport):
    async with AsyncPolicyClient(address, transport=transport, deadline=10.0, fallback=0) as client:
        print((await client.act(state)).source, client.last_error)


for transport in ("http", "stream"):
    with PolicyClient(address, transport=transport, deadline=10.0, fallback=0) as client:
        print(client.act(state).source, client.last_error)
    asyncio.run(main(transport))
"""


def test_the_client_runs_where_unix_sockets_and_poll_are_missing() -> None:
    with AnsweringService(right_answer) as service:
        result = subprocess.run(
            [sys.executable, "-c", ANOTHER_SYSTEM, service.address],
            env={"PYTHONPATH": str(ROOT / "client")},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert (result.stdout.split(), result.stderr) == (["policy"] * 4, "")
