"""What hostile bodies cost: the service, and another client while they are sent without end.

    python -m benchmarks.operations.chunks

A body of 1 MB that no endpoint takes is sent in chunks of one size, with a key and without one: to
`POST /act/batch`, which the fast path reads, and to `/v2`, which the ASGI path reads. Then bodies
that are refused are sent one after the other, while another client acts 50 times a second.
"""

import asyncio
import contextlib
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from benchmarks.calling.served import free_port, served
from benchmarks.environments import processor
from benchmarks.operations.load import Load
from service.auth.key_file import add_key

BODY_BYTES = 1_000_000
SIZES = (1, 16, 256, 4_096)
ROUNDS = 3
KEY = "upright_key-of-the-benchmark"
TICKS = os.sysconf("SC_CLK_TCK")
BATCH, INFER = "/act/batch", "/v2/models/cartpole-dqn/infer"
RATE, SECONDS = 50, 10  # of the other client


def main() -> None:
    """Measure, and print two tables."""
    print(f"{processor()}, median of {ROUNDS}\n")
    print("| path | bytes a chunk | bytes on the wire | CPU with a key, ms | CPU without, ms |")
    print("| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        keys = Path(folder) / "keys.toml"
        add_key(keys, "benchmark", ["act"], sha256(KEY.encode()).hexdigest())
        command = ("-m", "service", "--keys", str(keys))
        with served(free_port(), command=command) as running:
            for path in (BATCH, INFER):
                for size in SIZES:
                    _print_cost(running.process.pid, running.port, path, size)

    print("\n| sent without end | requests of another client | failed | p50, ms | p99 | longest |")
    print("| --- | --- | --- | --- | --- | --- |")
    with served(free_port()) as running:
        for name, sent in ATTACKS.items():
            with _sending(running.port, name) if sent else contextlib.nullcontext():
                found = asyncio.run(Load(running.port).run(RATE, SECONDS))
            print(f"| {name} | {found.row()} |", flush=True)


def _print_cost(pid: int, port: int, path: str, size: int) -> None:
    requests = [_chunked(path, size, header) for header in (f"authorization: Bearer {KEY}\r\n", "")]
    times = [
        statistics.median(_cpu_ms(pid, port, each) for _ in range(ROUNDS)) for each in requests
    ]
    sent = len(requests[0])
    print(f"| {path} | {size:,} | {sent:,} | {times[0]:,.0f} | {times[1]:,.0f} |", flush=True)


def _chunked(path: str, size: int, header: str = "", body_bytes: int = BODY_BYTES) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\n{header}transfer-encoding: chunked\r\n\r\n"
    chunk = b"%x\r\n%b\r\n" % (size, b" " * size)
    return head.encode() + chunk * (body_bytes // size) + b"0\r\n\r\n"


def _whole(path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


_FIELDS = b",".join(b'"%d":1' % number for number in range(200_000))
ATTACKS = {
    "nothing": b"",
    "7 MB in chunks of a byte, /act/batch": _chunked(BATCH, 1, body_bytes=1_170_000),
    "7 MB in chunks of a byte, /v2": _chunked(INFER, 1, body_bytes=1_170_000),
    "200,000 unknown fields, /act/batch": _whole(BATCH, b'{"states":[[0,0,0,0]],%b}' % _FIELDS),
    "200,000 unknown fields, /v2": _whole(INFER, b'{"inputs":[{%b}]}' % _FIELDS),
}


@contextlib.contextmanager
def _sending(port: int, name: str) -> Iterator[None]:
    """Send requests of a kind without end, by a process of its own."""
    command = [sys.executable, "-m", "benchmarks.operations.chunks", name, str(port)]
    with subprocess.Popen(command) as process:
        try:
            yield
        finally:
            process.kill()


def attack(name: str, port: int) -> None:
    """Send requests of a kind, each on a connection of its own, until the process is ended."""
    while True:
        _exchange(port, ATTACKS[name])


def _exchange(port: int, sent: bytes) -> None:
    """Send a request, and read until the service has answered and closed."""
    with (
        socket.create_connection(("127.0.0.1", port), 60) as connection,
        contextlib.suppress(ConnectionError),  # refused, and closed before all was sent
    ):
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65_536):
            pass


def _cpu_ms(pid: int, port: int, sent: bytes) -> float:
    """Return what a request took the service."""
    before = _ticks(pid)
    _exchange(port, sent)
    return (_ticks(pid) - before) * 1_000 / TICKS


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


if __name__ == "__main__":
    if len(sys.argv) > 1:
        attack(sys.argv[1], int(sys.argv[2]))
    main()
