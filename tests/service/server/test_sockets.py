"""Where the service listens: TCP, a Unix socket, or both."""

import asyncio
import socket
import stat
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import httpx2
import pytest
import uvloop

from service.server import sockets
from tests.support.service import (
    Start,
    free_port,
    reachable,
    refused,
    service,
    settings,
    wait_for,
)


def ask(path: Path) -> int:
    with httpx2.Client(transport=httpx2.HTTPTransport(uds=str(path))) as client:
        return client.post("http://localhost/act", content=b'{"state":[0,0,0.05,0]}').status_code


def test_a_unix_socket_answers_beside_tcp_and_is_gone_afterwards(
    start: Start, tmp_path: Path
) -> None:
    path = tmp_path / "act.sock"
    with start("--uds", str(path)) as address:
        assert httpx2.get(f"{address}/health/ready").status_code == 200
        assert ask(path) == 200
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert not path.exists()


def test_a_unix_socket_may_stand_in_place_of_tcp_with_permissions_of_choice(tmp_path: Path) -> None:
    path, port = tmp_path / "act.sock", free_port()
    with sockets.listening(
        settings(uds=path, uds_mode="600", uds_only=True, port=port)
    ) as listeners:
        assert [sockets.address(listener) for listener in listeners] == [f"unix:{path}"]
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))


def test_the_socket_file_of_a_killed_service_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "act.sock"
    with service(free_port(), "--uds", str(path)) as process:
        wait_for(path.exists)
        process.kill()
        process.wait()
    assert path.exists()
    with service(free_port(), "--uds", str(path)):
        wait_for(lambda: answers(path))


def answers(path: Path) -> bool:
    try:
        return ask(path) == 200
    except httpx2.TransportError:
        return False


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("mine")
    code, complaint = refused("--uds", str(path))
    assert (code, complaint.count("\n")) == (1, 1)
    assert "is no socket" in complaint
    assert path.read_text() == "mine"


def test_a_socket_that_another_program_listens_on_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "act.sock"
    with sockets.listening(settings(uds=path, uds_only=True)):
        inode = path.stat().st_ino
        with (
            pytest.raises(sockets.SocketError, match="another program"),
            sockets.listening(settings(uds=path, uds_only=True)),
        ):
            pass
        assert path.stat().st_ino == inode


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["--uds", "/nowhere/act.sock"], 1, "--uds /nowhere/act.sock"),
        (["--uds", "x" * 200], 1, "--uds"),
        (["--uds-mode", "rw"], 2, "--uds-mode"),
        (["--uds-only"], 2, "--uds-only needs --uds FILE"),
        (["--host", "203.0.113.1"], 1, "--host 203.0.113.1"),
    ],
)
def test_a_place_that_cannot_be_had_is_refused_in_one_line(
    arguments: list[str], code: int, named: str
) -> None:
    found, complaint = refused(*arguments)
    assert found == code
    assert named in complaint
    assert complaint.count("\n") == 1
    assert "Traceback" not in complaint


def test_a_port_that_is_taken_is_refused_in_one_line() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(sockets.SocketError, match=r"--port \d+: .*; choose another --port"),
        sockets.listening(settings(port=taken.getsockname()[1])),
    ):
        pass


def test_a_grpc_port_that_is_taken_is_refused_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, complaint = refused("--grpc-port", str(taken.getsockname()[1]))
    assert code == 1
    assert complaint.count("\n") == 1
    assert "--grpc-port" in complaint
    assert "Address already in use" in complaint


def test_a_name_that_does_not_resolve_is_told_in_the_resolvers_words() -> None:
    code, complaint = refused("--host", "nowhere.invalid")
    assert code == 1
    assert "--host nowhere.invalid" in complaint
    assert "Unknown error" not in complaint
    assert complaint.count("\n") == 1


def test_all_addresses_are_those_of_both_families() -> None:
    port = free_port()
    with service(port, "--host", "::"):
        wait_for(lambda: reachable(port))
        for host in ("127.0.0.1", "::1"):
            socket.create_connection((host, port), 5).close()


def test_several_addresses_are_listened_on_by_http_and_grpc_alike() -> None:
    port, grpc_port = free_port(), free_port()
    flags = ["--host", "127.0.0.1", "--host", "::1,127.0.0.2", "--grpc-port", str(grpc_port)]
    with service(port, *flags):
        for each in (port, grpc_port):
            for address in ("127.0.0.1", "::1", "127.0.0.2"):
                wait_for(partial(connects, address, each))
            assert not connects("127.0.0.3", each)


def test_any_free_port_is_the_same_for_all_addresses() -> None:
    with sockets.listening(settings(host=["127.0.0.2", "127.0.0.3"], port=0)) as listeners:
        first, second = (listener.getsockname() for listener in listeners)
    assert (first[0], second[0]) == ("127.0.0.2", "127.0.0.3")
    assert first[1] == second[1] != 0


def connects(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), 5).close()
    except OSError:
        return False
    return True


def test_a_listener_that_refuses_new_connections_still_gives_those_that_wait(
    tmp_path: Path,
) -> None:
    path, port = tmp_path / "act.sock", free_port()
    with sockets.listening(settings(uds=path, port=port)) as listeners:
        for listener in listeners:
            listener.setblocking(False)
            with connect(listener) as early:
                sockets.refuse_new(listener)
                with pytest.raises((TimeoutError, ConnectionRefusedError)):
                    connect(listener)
                early.sendall(b"sent after it")

                [accepted] = sockets.accept_waiting(listener)
                with accepted:
                    accepted.setblocking(True)
                    assert accepted.recv(100) == b"sent after it"


def connect(listener: socket.socket) -> socket.socket:
    client = socket.socket(listener.family, socket.SOCK_STREAM)
    client.settimeout(0.3)
    try:
        client.connect(listener.getsockname())
    except OSError:
        client.close()
        raise
    return client


CROWD = 64


class Accepted(asyncio.Protocol):
    """A connection that was accepted."""

    def __init__(self, transports: list[asyncio.BaseTransport]) -> None:
        self._transports = transports

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transports.append(transport)


async def rounds_until_all_are_accepted(listeners: list[socket.socket]) -> int:
    """Return after how many rounds of the event loop the crowd's connections were made."""
    loop = asyncio.get_running_loop()
    transports: list[asyncio.BaseTransport] = []
    servers = [
        await loop.create_server(lambda: Accepted(transports), sock=each) for each in listeners
    ]
    rounds = 0
    while len(transports) < CROWD:
        await asyncio.sleep(0)
        rounds += 1
    for transport in transports:
        transport.close()
    for server in servers:
        server.close()
        await server.wait_closed()
    return rounds


def test_a_crowd_that_comes_at_once_is_accepted_in_few_rounds() -> None:
    with (
        sockets.listening(settings(port=0)) as (listener,),
        ExitStack() as stack,
    ):
        for _ in range(CROWD):
            stack.enter_context(socket.create_connection(listener.getsockname()))
        copies = sockets.copies_to_accept_from([listener])
        rounds = uvloop.run(rounds_until_all_are_accepted(copies))
    assert rounds <= CROWD / sockets.ACCEPTS_A_ROUND + 8  # a few until all copies are looked at
