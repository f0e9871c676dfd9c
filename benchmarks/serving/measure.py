"""Measuring a started server under load, each on cores of its own.

Tells what it answered, how fast, and its memory. Linux only, since it reads /proc.
"""

import json
import os
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serving.peers import HERE, MODEL, Peer, environment_of

TICK = os.sysconf("SC_CLK_TCK")
CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, LOAD_CORE = CORES[0], CORES[-1]
START_LIMIT = 90  # seconds until a server must have answered


class PeerError(Exception):
    """Raised when a server cannot be started, or answers wrongly."""


def tool(name: str) -> str:
    """Return the path of a program. Raises `PeerError` where it is not installed."""
    path = shutil.which(name)
    if path is None:
        raise PeerError(f"{name} is needed: apt-get install wrk nghttp2-client util-linux")
    return path


@dataclass(frozen=True)
class Load:
    """What one run of wrk saw, and the processor time that the server took for it."""

    requests_per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    requests: int


class Server:
    """A running server."""

    def __init__(
        self, peer: Peer, process: subprocess.Popen[bytes], port: int, started: float, body: Path
    ) -> None:
        self.peer = peer
        self.pid = process.pid
        self.port = port
        self.url = f"http://127.0.0.1:{port}{peer.path}"
        self.start_seconds = started
        self.body = body

    def load(
        self, connections: int, seconds: int, body: Path | None = None, path: str | None = None
    ) -> Load:
        """Post as fast as it answers. Raises `PeerError` when an answer is not good."""
        before = self._cpu_seconds()
        url = self.url if path is None else self.url.removesuffix(self.peer.path) + path
        command = [
            tool("taskset"),
            "-c",
            str(LOAD_CORE),
            tool("wrk"),
            "-t1",
            f"-c{connections}",
            f"-d{seconds}s",
            "-s",
            str(HERE / "load.lua"),
            url,
        ]
        run = subprocess.run(
            command,
            env={"BODY": str(body or self.body), "PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            check=True,
        )
        cpu = self._cpu_seconds() - before
        seen = json.loads(run.stdout.strip().splitlines()[-1])
        if seen["failed"] or not seen["requests"]:
            raise PeerError(
                f"{self.peer.name}: {seen['failed']} of {seen['requests']} requests failed at"
                f" {connections} connections"
            )
        return Load(
            seen["requests"] / seen["seconds"],
            seen["p50_ms"],
            seen["p99_ms"],
            cpu / seen["requests"] * 1e6,
            seen["requests"],
        )

    def memory_mb(self, *, private: bool = False) -> float:
        """Return the proportional or private memory of its processes, in millions of bytes."""
        kinds = ("Private_Clean:", "Private_Dirty:") if private else ("Pss:",)
        total = 0
        for pid in self._processes():
            try:
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            except (FileNotFoundError, ProcessLookupError):
                continue
            total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(kinds))
        return total / 1e6

    def _processes(self) -> list[int]:
        found = _statistics()
        mine = {pid for pid, (_, session, _) in found.items() if session == self.pid}
        for _ in found:  # as deep as a family of processes can be
            more = {pid for pid, (parent, _, _) in found.items() if parent in mine} - mine
            if not more:
                break
            mine |= more
        return sorted(mine)

    def _cpu_seconds(self) -> float:
        found = _statistics()
        return sum(found[pid][2] for pid in self._processes() if pid in found) / TICK


def _statistics() -> dict[int, tuple[int, int, int]]:
    """Return parent, session and ticks on a processor of every process."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            found[int(folder.name)] = (
                int(fields[1]),
                int(fields[3]),
                int(fields[11]) + int(fields[12]),
            )
    return found


@contextmanager
def running(
    peer: Peer, port: int, scratch: Path, state: list[float], expected: list[float]
) -> Iterator[Server]:
    """Start a server on its core, and wait for its first good answer.

    Ends it and all its processes afterwards. Raises `PeerError`.
    """
    folder = environment_of(peer.environment)
    scratch.mkdir(parents=True, exist_ok=True)
    body = scratch / "body.json"
    body.write_text(json.dumps(peer.body(state)))
    command, variables = peer.command(folder, port, scratch)
    log = scratch / "log.txt"
    begun = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [tool("taskset"), "-c", str(SERVER_CORE), *command],
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(scratch),
                "MODEL": str(MODEL),
                "OMP_NUM_THREADS": "1",
            }
            | variables,
        )
    server = Server(peer, process, port, 0.0, body)
    try:
        _first_answer(server, process, log, expected)
        server.start_seconds = time.perf_counter() - begun
        yield server
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in server._processes():
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    continue
            try:
                process.wait(8)
            except subprocess.TimeoutExpired:
                continue
            time.sleep(0.2)


def _first_answer(
    server: Server, process: subprocess.Popen[bytes], log: Path, expected: list[float]
) -> None:
    request = urllib.request.Request(  # noqa: S310 - loopback
        server.url, server.body.read_bytes(), {"Content-Type": "application/json"}
    )
    problem = "no answer"
    for _ in range(int(START_LIMIT / 0.01)):
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - loopback
                content = json.loads(answer.read())
        except (OSError, urllib.error.URLError) as error:
            problem = str(error)
            time.sleep(0.01)
            continue
        if server.peer.checked:
            found = server.peer.q_values(content)
            if any(abs(one - other) > 1e-3 for one, other in zip(found, expected, strict=True)):
                raise PeerError(f"{server.peer.name}: answers {found}, expected {expected}")
        return
    raise PeerError(
        f"{server.peer.name}: {problem}; its log ends: {log.read_text(errors='replace')[-1500:]}"
    )


def installed_mb(name: str) -> float:
    """Return what an environment holds, in MB, without pip and compiled bytecode."""
    site = next((environment_of(name) / "lib").glob("python3.*")) / "site-packages"
    skipped = {"pip", "setuptools", "__pycache__"}
    return (
        sum(
            path.stat().st_size
            for path in site.rglob("*")
            if path.is_file() and not skipped & set(path.relative_to(site).parts)
        )
        / 1e6
    )
