"""Two thousand slow and half-open connections, held for a minute.

Prints what another client sees, what they cost in memory, and how they end.

python -m benchmarks.operations.slow

A connection that the service ends is made again a second later, until the minute is over. Then the
service is left to end the rest.
"""

import argparse
import asyncio
import multiprocessing
import os
import re
import resource
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import uvloop

from benchmarks.calling.served import free_port, served
from benchmarks.operations.load import Found, Load
from service.server.memory import CHECKS_UNTIL_SECOND_TRIM

ACT = b'POST /act HTTP/1.1\r\nhost: localhost\r\ncontent-length: 22\r\n\r\n{"state":[0,0,0.05,0]}'
MODEL = b"GET /model HTTP/1.1\r\nhost: localhost\r\n\r\n"
HANDSHAKE = (
    b"GET /act/stream HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
FRAME = b'\x81\x96\0\0\0\0{"state":[0,0,0.05,0]}'
H2C = (
    b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\n"
    b"http2-settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"
)


@dataclass(frozen=True)
class Kind:
    """A way to be slow: what is sent at first, and what then.

    That is a byte a second, or as much as the service takes without an answer ever being read.
    """

    first: bytes
    byte: bytes = b""
    flood: bytes = b""


KINDS = {
    "never a byte": Kind(b""),
    "half a head, a byte a second": Kind(
        b"POST /act HTTP/1.1\r\nhost: localhost\r\nx: ", byte=b"y"
    ),
    "a head, then a byte of its body a second": Kind(
        b"POST /act HTTP/1.1\r\nhost: localhost\r\ncontent-length: 900\r\n\r\n", byte=b" "
    ),
    "an offer of HTTP/2, then a byte a second": Kind(
        b"POST /act HTTP/1.1\r\nhost: localhost\r\n" + H2C + b"content-length: 900\r\n\r\n",
        byte=b" ",
    ),
    "a stream that never reads": Kind(HANDSHAKE, flood=FRAME * 100),
    "requests without end, and never reads": Kind(b"", flood=(ACT * 9 + MODEL) * 10),
}


@dataclass
class Ends:
    """How the connections of a kind ended, and how long each had been held."""

    how: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)


def hold(port: int, count: int, seconds: float, told: Connection) -> None:
    """Hold connections of all kinds, in a process of its own."""
    os.nice(19)  # such clients are elsewhere: what they cost themselves is not to be seen here
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    told.send(asyncio.run(_hold(port, count, seconds, told)))


async def _hold(port: int, count: int, seconds: float, told: Connection) -> dict[str, Ends]:
    ends = {name: Ends() for name in KINDS}
    until = time.monotonic() + seconds
    names = list(KINDS)
    tasks = [
        asyncio.create_task(
            _held(port, KINDS[names[number % len(names)]], ends[names[number % len(names)]], until)
        )
        for number in range(count)
    ]
    told.send(None)
    await asyncio.gather(*tasks)
    return ends


async def _held(port: int, kind: Kind, ends: Ends, until: float) -> None:
    loop = asyncio.get_running_loop()
    while time.monotonic() < until:
        with socket.socket() as connection:
            connection.setblocking(False)
            if kind.flood:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
                connection.setsockopt(
                    socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536
                )  # what they have yet to send would be in other machines
            await loop.sock_connect(connection, ("127.0.0.1", port))
            since = time.monotonic()
            try:
                await loop.sock_sendall(connection, kind.first)
                how = await (
                    _flooded(connection, kind.flood)
                    if kind.flood
                    else _dripped(connection, kind.byte)
                )
            except OSError as error:
                how = type(error).__name__
            ends.how[how] += 1
            ends.seconds.append(time.monotonic() - since)
        await asyncio.sleep(1)


async def _flooded(connection: socket.socket, flood: bytes) -> str:
    while True:
        await asyncio.get_running_loop().sock_sendall(connection, flood)


async def _dripped(connection: socket.socket, byte: bytes) -> str:
    loop = asyncio.get_running_loop()
    answer = asyncio.create_task(_answered(connection))
    while not (await asyncio.wait({answer}, timeout=1))[0]:
        if byte:
            await loop.sock_sendall(connection, byte)
    return answer.result()


async def _answered(connection: socket.socket) -> str:
    received = b""
    while data := await asyncio.get_running_loop().sock_recv(connection, 4_096):
        received += data
    return received[9:12].decode() or "closed"


def megabytes(pid: int) -> float:
    """Return what a process has in memory, its share of what it shares with others included."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    assert found is not None  # noqa: S101 - the kernel writes it always
    return int(found[1]) / 1024


async def asked(
    port: int, rate: float, seconds: float, watch: Callable[[], float]
) -> tuple[Found, float]:
    """Return what another client sees, and the most memory that the service had meanwhile."""
    load = asyncio.create_task(Load(port).run(rate, seconds))
    most = 0.0
    while not (await asyncio.wait({load}, timeout=1))[0]:
        most = max(most, watch())
    return load.result(), max(most, watch())


def main() -> None:
    """Measure, and print tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--connections", type=int, default=2_000)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument(
        "--rate", type=float, default=100, help="requests a second of the other client"
    )
    options = parser.parse_args()
    with served(free_port()) as service:

        def watch() -> float:
            return megabytes(service.process.pid)

        rows = {"before": uvloop.run(asked(service.port, options.rate, 10, watch))}
        ours, theirs = multiprocessing.Pipe()
        holder = multiprocessing.get_context("spawn").Process(
            target=hold, args=(service.port, options.connections, options.seconds, theirs)
        )
        holder.start()
        ours.recv()
        rows["meanwhile"] = uvloop.run(asked(service.port, options.rate, options.seconds, watch))
        ends: dict[str, Ends] = ours.recv()
        holder.join()
        time.sleep(CHECKS_UNTIL_SECOND_TRIM + 5)  # the service looks once a second
        rows["after"] = uvloop.run(asked(service.port, options.rate, 10, watch))
    print(
        f"{options.connections} connections held for {options.seconds:.0f} s; another client"
        f" asks {options.rate:.0f} times a second\n"
    )
    print(
        "| when | requests | failed | p50 ms | p99 ms | longest ms | memory MB |\n| --- | --- |"
        " --- | --- | --- | --- | --- |"
    )
    for name, (found, memory) in rows.items():
        print(f"| {name} | {found.row()} | {memory:.0f} |")
        for failure, times in found.failures.most_common(5):
            print(f"  {times} × {failure}")
    print("\n| connections that | ended | by | after s |\n| --- | --- | --- | --- |")
    for name, end in ends.items():
        by = ", ".join(f"{how} {times}" for how, times in end.how.most_common())
        print(
            f"| {name} | {len(end.seconds)} | {by} | {min(end.seconds):.0f} …"
            f" {max(end.seconds):.0f} |"
        )
    sys.exit(int(any(found.failures for found, _ in rows.values())))


if __name__ == "__main__":
    main()
