"""The processor time of bodies in tiny chunks, with a key and without one.

    python -m benchmarks.operations.chunks

The body of 1 MB that no endpoint takes is sent to `POST /act/batch` in chunks of one size.
"""

import contextlib
import os
import socket
import statistics
import tempfile
from hashlib import sha256
from pathlib import Path

from benchmarks.calling.served import free_port, served
from benchmarks.environments import processor
from service.auth.key_file import add_key

BODY_BYTES = 1_000_000
SIZES = (1, 16, 256, 4_096)
ROUNDS = 3
KEY = "upright_key-of-the-benchmark"
TICKS = os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure, and print a table."""
    print(f"{processor()}, median of {ROUNDS}\n")
    print("| bytes a chunk | bytes on the wire | CPU with a key, ms | CPU without, ms |")
    print("| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        keys = Path(folder) / "keys.toml"
        add_key(keys, "benchmark", ["act"], sha256(KEY.encode()).hexdigest())
        command = ("-m", "service", "--keys", str(keys))
        with served(free_port(), command=command) as running:
            for size in SIZES:
                sent = _request(size, f"authorization: Bearer {KEY}\r\n")
                without = _request(size, "")
                pid, port = running.process.pid, running.port
                times = [
                    statistics.median(_cpu_ms(pid, port, each) for _ in range(ROUNDS))
                    for each in (sent, without)
                ]
                print(
                    f"| {size:,} | {len(sent):,} | {times[0]:,.0f} | {times[1]:,.0f} |", flush=True
                )


def _request(size: int, header: str) -> bytes:
    head = (
        f"POST /act/batch HTTP/1.1\r\nhost: localhost\r\n{header}transfer-encoding: chunked\r\n\r\n"
    )
    chunk = b"%x\r\n%b\r\n" % (size, b" " * size)
    return head.encode() + chunk * (BODY_BYTES // size) + b"0\r\n\r\n"


def _cpu_ms(pid: int, port: int, sent: bytes) -> float:
    """Send a request, wait for its answer, and return what it took the service."""
    before = _ticks(pid)
    with (
        socket.create_connection(("127.0.0.1", port), 60) as connection,
        contextlib.suppress(ConnectionError),  # refused, and closed before all was sent
    ):
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65_536):
            pass
    return (_ticks(pid) - before) * 1_000 / TICKS


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


if __name__ == "__main__":
    main()
