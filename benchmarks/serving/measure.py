"""Measuring a started server under load, each on cores of its own.

Tells what it answered, how fast, and its memory. Linux only, since it reads /proc.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import grpc

from benchmarks.serving.peers import GRPC_OFFSET, HERE, MODEL, Peer, environment_of
from benchmarks.serving.protocols import Protocol, QValues, Request, States

TICK = os.sysconf("SC_CLK_TCK")
CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, LOAD_CORE = CORES[0], CORES[-1]
START_LIMIT = 90  # seconds until a server must have answered
ANSWER_SECONDS = 30  # that one answer may take
GRPC_FRAME_BYTES = 5  # before a message


class PeerError(Exception):
    """Raised when a server cannot be started, or answers wrongly."""


def tool(name: str) -> str:
    """Return the path of a program. Raises `PeerError` where it is not installed."""
    path = shutil.which(name)
    if path is None:
        raise PeerError(f"{name} is needed: apt-get install wrk nghttp2-client util-linux")
    return path


class _Times(NamedTuple):
    """What a program that loads a server saw."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Load:
    """What one run of load saw, and the processor time that the server took for it."""

    requests_per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    requests: int


class Server:
    """A running server."""

    def __init__(
        self, name: str, process: subprocess.Popen[bytes], port: int, grpc_port: int | None = None
    ) -> None:
        self.name = name
        self.pid = process.pid
        self.port, self.grpc_port = port, grpc_port
        self.start_seconds = 0.0

    def answer(self, protocol: Protocol, states: States) -> QValues:
        """Ask once. Raises `OSError` or `grpc.RpcError` where there is no good answer."""
        request = protocol.request(states)
        if protocol.is_grpc:
            message = request.body[GRPC_FRAME_BYTES:]
            with grpc.insecure_channel(f"127.0.0.1:{self.grpc_port}") as channel:
                body: bytes = channel.unary_unary(request.path)(message, timeout=ANSWER_SECONDS)
            return protocol.q_values(body, {})

        url = f"http://127.0.0.1:{self.port}{request.path}"
        question = urllib.request.Request(url, request.body, request.headers)
        with urllib.request.urlopen(question, timeout=ANSWER_SECONDS) as answer:  # noqa: S310 - loopback
            headers = {name.lower(): value for name, value in answer.headers.items()}
            return protocol.q_values(answer.read(), headers)

    def load(
        self, request: Request, connections: int, seconds: int, *, is_grpc: bool = False
    ) -> Load:
        """Post as fast as it answers. Raises `PeerError` when an answer is not good."""
        before = self._cpu_seconds()
        with tempfile.TemporaryDirectory(prefix="upright-load-") as folder:
            body = Path(folder, "body")
            body.write_bytes(request.body)
            run = self._h2load if is_grpc else self._wrk
            times = run(request, body, connections, seconds)
        cpu = self._cpu_seconds() - before
        return Load(
            times.requests / times.seconds,
            times.p50_ms,
            times.p99_ms,
            cpu / times.requests * 1e6,
            times.requests,
        )

    def _wrk(self, request: Request, body: Path, connections: int, seconds: int) -> "_Times":
        command = [tool("taskset"), "-c", str(LOAD_CORE), tool("wrk"), "-t1", f"-c{connections}"]
        command += [f"-d{seconds}s", "-s", str(HERE / "load.lua")]
        headers = "\n".join(f"{name}: {value}" for name, value in request.headers.items())
        run = subprocess.run(
            [*command, f"http://127.0.0.1:{self.port}{request.path}"],
            env={"BODY": str(body), "HEADERS": headers, "PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            check=True,
        )
        seen = json.loads(run.stdout.strip().splitlines()[-1])
        if seen["failed"] or not seen["requests"]:
            raise PeerError(
                f"{self.name}: {seen['failed']} of {seen['requests']} requests failed at"
                f" {connections} connections"
            )
        return _Times(seen["requests"], seen["seconds"], seen["p50_ms"], seen["p99_ms"])

    def _h2load(self, request: Request, body: Path, connections: int, seconds: int) -> "_Times":
        log = body.with_name("log")
        command = [tool("taskset"), "-c", str(LOAD_CORE), tool("h2load"), "-m1"]
        command += [f"-c{connections}", f"-D{seconds}", "-d", str(body), f"--log-file={log}"]
        for name, value in request.headers.items():
            command += ["-H", f"{name}: {value}"]
        run = subprocess.run(
            [*command, f"http://127.0.0.1:{self.grpc_port}{request.path}"],
            capture_output=True,
            text=True,
            check=True,
        )
        counts = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored", run.stdout)
        if counts is None or int(counts[1]) == 0 or int(counts[2]) + int(counts[3]):
            raise PeerError(f"{self.name}: not every call succeeded:\n{run.stdout[-1500:]}")
        # A line for each call: when it began, its status, and its microseconds.
        taken = sorted(int(line.split()[2]) / 1e3 for line in log.read_text().splitlines())
        middle, slow = (taken[int(share * (len(taken) - 1))] for share in (0.5, 0.99))
        return _Times(int(counts[1]), seconds, middle, slow)

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
def running(peer: Peer, port: int, scratch: Path) -> Iterator[Server]:
    """Start a server on its core, and wait for its first good answer.

    Ends it and all its processes afterwards. Raises `PeerError`.
    """
    folder = environment_of(peer.environment)
    scratch.mkdir(parents=True, exist_ok=True)
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
    server = Server(peer.name, process, port, port + GRPC_OFFSET)
    try:
        _first_answer(server, peer, process, log)
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


def _first_answer(server: Server, peer: Peer, process: subprocess.Popen[bytes], log: Path) -> None:
    protocol = next(iter(peer.protocols.values()))
    problem = "no answer"
    for _ in range(int(START_LIMIT / 0.01)):
        if process.poll() is not None:
            break
        try:
            server.answer(protocol, [[0.0, 0.0, 0.0, 0.0]])
        except (OSError, grpc.RpcError) as error:
            problem = str(error)
            time.sleep(0.01)
            continue
        return
    raise PeerError(
        f"{server.name}: {problem}; its log ends: {log.read_text(errors='replace')[-1500:]}"
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
