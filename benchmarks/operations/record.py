"""The decision record: what it costs a request, and what is left of it when the service is killed.

    python -m benchmarks.operations.record

Cost: one service with the record and one without, on one core and asked in turns by wrk on the
other. Ratios are taken between neighbours. Both are started anew for each round: one process is up
to a microsecond a request slower than the next.

Kill: 5,000 requests a second for a minute, each with its own seq, then `kill -9`. What was answered
is looked up in the file, the file is checked, and every row is answered again.

Rows: the processor time of writing one, by the ways that were to choose from (docs/decisions/0016).
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import platform
import re
import signal
import sqlite3
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import apsw
import uvloop

from benchmarks.calling.served import free_port, ready, write
from benchmarks.environments import ROOT
from benchmarks.serving.measure import LOAD_CORE, SERVER_CORE, Load, Server
from benchmarks.serving.protocols import Request
from service.records.schema import INSERT_STATEMENTS
from service.records.writer import Limits, Writer

STATE = [0.01, -0.02, 0.05, 0.3]
ACT = Request("/act", json.dumps({"state": STATE}).encode())
CONNECTIONS, LOADS = 16, 3
RATE, CLIENTS = (
    5_000,
    64,
)  # requests a second, and over how many connections, in the part that ends with a kill
AT_ONCE = INSERT_STATEMENTS[0][0]
ROWS, NOW = AT_ONCE * 800, 1.8e9  # of the part that writes rows
Connection = sqlite3.Connection | apsw.Connection
SEQ = re.compile(rb'"seq":(\d+)}$')


def main() -> None:
    """Measure, print tables and write what was measured as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--parts", nargs="+", choices=("cost", "kill", "rows"), default=("cost", "kill")
    )
    parser.add_argument("--rounds", type=int, default=9, help="of the cost")
    parser.add_argument("--kills", type=int, default=1)
    parser.add_argument("--seconds", type=int, default=60, help="of load before a kill")
    options = parser.parse_args()
    os.sched_setaffinity(0, {LOAD_CORE})
    print(f"Python {platform.python_version()}, apsw {apsw.apsw_version()}")
    figures: dict[str, object] = {}
    with tempfile.TemporaryDirectory(prefix="upright-record-") as folder:
        if "cost" in options.parts:
            figures["cost"] = cost(Path(folder), options.rounds)
        if "kill" in options.parts:
            print(
                "\n| requests answered | per second | missing | the oldest of them, ms before"
                " the kill | integrity | replay |"
            )
            print("| --- | --- | --- | --- | --- | --- |")
            figures["kills"] = [
                kill(Path(folder) / f"kill-{number}.sqlite", options.seconds)
                for number in range(options.kills)
            ]
        if "rows" in options.parts:
            figures["rows"] = rows(Path(folder))
    write("record", figures)


@contextmanager
def running(*arguments: str) -> Iterator[Server]:
    """Serve the committed bundle on the servers' core until the end of the block."""
    port = free_port()
    command = [
        "taskset",
        "-c",
        str(SERVER_CORE),
        sys.executable,
        "-m",
        "service",
        "--port",
        str(port),
        "--drain",
        "0",
        *arguments,
    ]
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("UPRIGHT_")
    }
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            while not ready(port):
                if process.poll() is not None:
                    raise RuntimeError(f"the service did not start: exit code {process.returncode}")
                time.sleep(0.02)
            yield Server("Upright", process, port)
        finally:
            process.terminate()
            process.wait()


def cost(scratch: Path, rounds: int) -> dict[str, float]:
    """Compare a service that records with one that does not."""
    pairs: list[tuple[Load, Load]] = []
    for number in range(rounds):
        file = scratch / f"cost-{number}.sqlite"
        with running() as without, running("--record", str(file)) as recording:
            for server in (without, recording):
                server.load(ACT, CONNECTIONS, 1)
            pairs += [
                (without.load(ACT, CONNECTIONS, 1), recording.load(ACT, CONNECTIONS, 1))
                for _ in range(LOADS)
            ]
        with closing(sqlite3.connect(file)) as connection:
            ((written,),) = connection.execute("SELECT count(*) FROM decisions").fetchall()
        size = file.stat().st_size / written
    ratios = sorted(
        after.requests_per_second / before.requests_per_second for before, after in pairs
    )
    found = {
        "requests_per_second_without": statistics.median(
            before.requests_per_second for before, _ in pairs
        ),
        "requests_per_second": statistics.median(after.requests_per_second for _, after in pairs),
        "ratio": statistics.median(ratios),
        "least_ratio": ratios[0],
        "largest_ratio": ratios[-1],
        "cpu_us_without": statistics.median(before.cpu_us for before, _ in pairs),
        "cpu_us": statistics.median(after.cpu_us for _, after in pairs),
        "p99_ms_without": statistics.median(before.p99_ms for before, _ in pairs),
        "p99_ms": statistics.median(after.p99_ms for _, after in pairs),
        "bytes_per_row": size,
    }
    print(
        "\n| record | requests/s | of those without | CPU a request | p99 |\n| --- | --- | ---"
        " | --- | --- |"
    )
    print(
        f"| off | {found['requests_per_second_without']:,.0f} | | {found['cpu_us_without']:.1f}"
        f" µs | {found['p99_ms_without']:.2f} ms |"
    )
    share = f"{found['ratio']:.3f} ({ratios[0]:.3f} … {ratios[-1]:.3f})"
    print(
        f"| on | {found['requests_per_second']:,.0f} | {share} | {found['cpu_us']:.1f} µs |"
        f" {found['p99_ms']:.2f} ms |"
    )
    print(
        f"\n{rounds} rounds of {LOADS} loads each, {CONNECTIONS} connections;"
        f" {found['bytes_per_row']:.0f} bytes a decision",
        flush=True,
    )
    return found


def kill(file: Path, seconds: int) -> dict[str, object]:
    """Kill a service that records under load, and look at what it left."""
    answered: dict[int, float] = {}  # when, by seq
    with running("--record", str(file)) as server:
        killed_at = uvloop.run(_load_and_kill(server.port, server.pid, seconds, answered))
    with closing(sqlite3.connect(file)) as connection:
        integrity = [row[0] for row in connection.execute("PRAGMA integrity_check")]
        kept = {seq for (seq,) in connection.execute("SELECT seq FROM decisions")}
    replayed = subprocess.run(
        [sys.executable, "-m", "service", "replay", str(file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    missing = answered.keys() - kept
    oldest = max((killed_at - answered[seq] for seq in missing), default=0.0) * 1e3
    found = {
        "answered": len(answered),
        "per_second": len(answered) / seconds,
        "missing": len(missing),
        "oldest_missing_ms": oldest,
        "integrity": integrity,
        "replay": replayed.stdout,
    }
    print(
        f"| {len(answered):,} | {len(answered) / seconds:,.0f} | {len(missing)} | {oldest:.0f}"
        f" | {', '.join(integrity)} "
        f"| {replayed.stdout.strip()}, exit code {replayed.returncode} |",
        flush=True,
    )
    return found


def rows(scratch: Path) -> dict[str, float]:
    """Return the processor time of making and writing a row, in microseconds, by each way."""
    decisions = [
        (
            NOW + number,
            f"{number:032x}",
            number,
            0,
            (0.1 * number, 0.2, 0.3, -0.4),
            (10.5 + number, 11.5),
            1,
            None,
        )
        for number in range(ROWS)
    ]
    pack_state, pack_q = struct.Struct("<4d").pack, struct.Struct("<2f").pack

    def columns() -> list[Any]:
        return [
            (now, name, seq, row, *state, *q, action, names)
            for now, name, seq, row, state, q, action, names in decisions
        ]

    def packed() -> list[Any]:
        return [
            (now, name, seq, row, pack_state(*state), pack_q(*q), action, names, 1)
            for now, name, seq, row, state, q, action, names in decisions
        ]

    def by_one(connection: Connection, some: list[Any]) -> None:
        connection.executemany(INSERT_STATEMENTS[-1][1], [(1, *row) for row in some])

    def by_many(connection: Connection, some: list[Any]) -> None:
        connection.execute(INSERT_STATEMENTS[0][1], [1, *itertools.chain.from_iterable(some)])

    def as_blobs(connection: Connection, some: list[Any]) -> None:
        connection.executemany("INSERT INTO packed VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?)", some)

    ways = (
        ("in columns, row by row", columns, by_one),
        (f"in columns, {AT_ONCE} rows at once", columns, by_many),
        ("state and Q-values packed, row by row", packed, as_blobs),
    )
    libraries: tuple[tuple[str, Callable[[str], Connection]], ...] = (
        (
            f"sqlite3, SQLite {sqlite3.sqlite_version}",
            lambda file: sqlite3.connect(file, isolation_level=None),
        ),
        (f"apsw, SQLite {apsw.sqlite_lib_version()}", apsw.Connection),
    )
    table = (
        "CREATE TABLE packed (id INTEGER PRIMARY KEY,"
        " time, request_id, seq, row, state, q, action, names, policy)"
    )
    found: dict[str, float] = {}
    print("\n| way | library | µs a row |\n| --- | --- | --- |")
    for (way, make, insert), (library, connect) in itertools.product(ways, libraries):
        file = scratch / f"rows-{len(found)}.sqlite"
        Writer(file, Limits(size=1, age=1, keep=1)).close()
        with closing(connect(str(file))) as connection:
            for statement in ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = NORMAL", table):
                connection.execute(statement)
            before = time.process_time()
            made = make()
            for first in range(0, ROWS, AT_ONCE * 4):
                connection.execute("BEGIN")
                for place in range(first, first + AT_ONCE * 4, AT_ONCE):
                    insert(connection, made[place : place + AT_ONCE])
                connection.execute("COMMIT")
            found[f"{way}, {library}"] = (time.process_time() - before) / ROWS * 1e6
        print(f"| {way} | {library} | {found[f'{way}, {library}']:.2f} |", flush=True)
    return found


async def _load_and_kill(port: int, pid: int, seconds: int, answered: dict[int, float]) -> float:
    """Ask `RATE` times a second for so long, then kill the process meanwhile; return when."""
    loop, seqs = asyncio.get_running_loop(), itertools.count()
    clients = [
        (await loop.create_connection(lambda: _Client(seqs, answered), "127.0.0.1", port))[1]
        for _ in range(CLIENTS)
    ]
    started = time.perf_counter()
    for number in range(RATE * seconds // CLIENTS):
        await asyncio.sleep(max(0.0, started + number * CLIENTS / RATE - time.perf_counter()))
        for client in clients:
            client.ask()
    killed_at = time.perf_counter()
    os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(asyncio.gather(*(client.lost.wait() for client in clients)), 5)
    return killed_at


class _Client(asyncio.Protocol):
    """One connection: a request at a time, and when each was answered."""

    def __init__(self, seqs: Iterator[int], answered: dict[int, float]) -> None:
        self._seqs = seqs
        self._answered = answered
        self._waits = False
        self._buffer = b""
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection."""
        self._transport: asyncio.Transport = transport  # type: ignore[assignment] # connections are streams

    def ask(self) -> None:
        """Ask, if the last request was answered."""
        if not self._waits:
            self._waits = True
            body = json.dumps({"state": STATE, "seq": next(self._seqs)}).encode()
            self._transport.write(
                b"POST /act HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b"
                % (len(body), body)
            )

    def data_received(self, data: bytes) -> None:
        """Note when an answer is whole."""
        self._buffer += data
        if found := SEQ.search(self._buffer):
            self._answered[int(found[1])] = time.perf_counter()
            self._waits, self._buffer = False, b""

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Note the end."""
        self.lost.set()


if __name__ == "__main__":
    main()
