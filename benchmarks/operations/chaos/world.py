"""Three processes of the service behind nginx, each in a network namespace where that is allowed.

Nothing here reaches beyond this machine: the namespaces are made here, with addresses of their own,
and taken away at the end.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from benchmarks.calling.served import BUNDLE, ROOT, free_port
from benchmarks.operations.restart import CONFIG, MAIN

COUNT = 3
GRPC = """
upstream upright_grpc {{
    keepalive 64;
{servers}
}}
server {{
    listen 127.0.0.1:{port} http2;
    location / {{
        grpc_pass grpc://upright_grpc;
        grpc_connect_timeout 1s;
        grpc_read_timeout 10s;
        grpc_next_upstream error timeout non_idempotent;
    }}
}}
"""
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")


class Collector:
    """A collector of traces, which can be told to answer late."""

    def __init__(self) -> None:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                """Take the spans, after a while."""
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                time.sleep(collector.delay)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_arguments: object) -> None:
                """Say nothing."""

        self.delay = 0.0
        self._server = ThreadingHTTPServer(("0.0.0.0", 0), Handler)  # noqa: S104 - the namespaces call it
        self._server.daemon_threads = True
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()


@dataclass
class Service:
    """One process of the service, where it listens, and what is its own."""

    number: int
    folder: Path
    host: str
    port: int
    grpc_port: int
    namespace: str | None
    collector: str
    has_false_clock: bool
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def log(self) -> Path:
        """Where its lines go."""
        return self.folder / "service.log"

    @property
    def bundle(self) -> Path:
        """The folder of its bundle."""
        return self.folder / "bundle"

    @property
    def clock(self) -> Path:
        """The file that says by how much its clock is off."""
        return self.folder / "clock"

    @property
    def pid(self) -> int:
        """Its number."""
        assert self.process is not None  # noqa: S101 - it was started
        return self.process.pid

    def start(self) -> None:
        """Start it, and return when it is ready."""
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("UPRIGHT_")
        }
        environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = self.collector
        if FAKETIME.exists() and self.has_false_clock:
            environment |= {
                "LD_PRELOAD": str(FAKETIME),
                "FAKETIME_TIMESTAMP_FILE": str(self.clock),
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                "FAKETIME_CACHE_DURATION": "1",
            }
        arguments = [
            sys.executable, "-m", "service", "--host", self.host, "--port", str(self.port),
            "--grpc-port", str(self.grpc_port), "--bundle", str(self.bundle), "--drain", "1",
            "--record", str(self.folder / "record" / "decisions.sqlite"),
            "--record-size", "1000000", "--record-keep", "1", "--tracing",
            "--log-format", "json", "--allowed-host", "localhost",
        ]  # fmt: skip
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", self.namespace, *arguments]
                if self.namespace
                else arguments,
                cwd=ROOT,
                env=environment,
                stdout=output,
                stderr=output,
            )
        while not self.answers("/health/ready"):
            if self.process.poll() is not None:
                raise RuntimeError(f"the service ended:\n{self.log.read_text()[-2000:]}")
            time.sleep(0.02)

    def stop(self, number: signal.Signals) -> None:
        """Tell it to end, and return when it has."""
        assert self.process is not None  # noqa: S101 - it was started
        self.process.send_signal(number)
        self.process.wait(30)

    def answers(self, path: str) -> bool:
        """Return whether it answers 200 there within half a second."""
        return self.get(path, 0.5).startswith("HTTP/1.1 200")

    def get(self, path: str, timeout: float = 2.0) -> str:
        """Return an answer with its head, or nothing."""
        request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        try:
            with socket.create_connection((self.host, self.port), timeout) as connection:
                connection.sendall(request.encode())
                parts = []
                while part := connection.recv(65_536):
                    parts.append(part)
            return b"".join(parts).decode()
        except OSError:
            return ""


@dataclass
class World:
    """All that runs, and what is not possible on this machine."""

    services: list[Service]
    collector: Collector
    http_port: int = 0
    grpc_port: int = 0
    has_namespaces: bool = False
    notes: list[str] = field(default_factory=list)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=10)  # noqa: S607 - the system's


def namespaces_allowed() -> bool:
    """Return whether network namespaces can be made here."""
    name = f"upright-try-{os.getpid()}"
    if shutil.which("ip") is None:
        return False
    try:
        _ip("netns", "add", name)
        _ip("netns", "del", name)
    except (subprocess.CalledProcessError, OSError):
        return False
    return True


@contextlib.contextmanager
def namespace(number: int) -> Iterator[tuple[str, str, str]]:
    """Make a namespace with a link to this one; gives its name, this side's and its address."""
    name, link = f"upright-{os.getpid()}-{number}", f"upr{os.getpid() % 100_000}-{number}"
    near, far = f"10.203.{number}.1", f"10.203.{number}.2"
    _ip("netns", "add", name)
    try:
        _ip("link", "add", link, "type", "veth", "peer", "name", "far", "netns", name)
        _ip("addr", "add", f"{near}/30", "dev", link)
        _ip("link", "set", link, "up")
        for arguments in (
            ("addr", "add", f"{far}/30", "dev", "far"),
            ("link", "set", "far", "up"),
            ("link", "set", "lo", "up"),
        ):
            _ip("-n", name, *arguments)
        yield name, near, far
    finally:
        _ip("netns", "del", name)  # its end of the link goes with it, and so does the other


@contextlib.contextmanager
def world() -> Iterator[World]:
    """Start everything; stop it at the end of the block."""
    collector = Collector()
    with contextlib.ExitStack() as whole:
        whole.callback(collector.close)
        folder = Path(whole.enter_context(tempfile.TemporaryDirectory(prefix="upright-chaos-")))
        made = World([], collector, has_namespaces=namespaces_allowed())
        if not made.has_namespaces:
            made.notes.append("no network namespaces are allowed here: loss and partition are left")
        for number in range(COUNT):
            name, near, far = None, "127.0.0.1", "127.0.0.1"
            if made.has_namespaces:
                name, near, far = whole.enter_context(namespace(number))
            own = folder / str(number)
            (own / "record").mkdir(parents=True)
            if _mount_small_disk(own / "record"):
                whole.callback(_unmount, own / "record")
            (own / "clock").write_text("+0")
            shutil.copytree(BUNDLE, own / "bundle")
            address = f"http://{near}:{collector.port}"
            service = Service(
                number, own, far, free_port(), free_port(), name, address, number == COUNT - 1
            )
            whole.callback(_end, service)
            service.start()
            made.services.append(service)
        made.http_port, made.grpc_port = whole.enter_context(_nginx(folder, made.services))
        yield made


def _mount_small_disk(folder: Path) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True, check=False, timeout=10).returncode == 0


def _unmount(folder: Path) -> None:
    subprocess.run(["umount", folder], check=True, timeout=10)  # noqa: S607 - the system's


def _end(service: Service) -> None:
    if service.process is not None and service.process.poll() is None:
        service.process.send_signal(signal.SIGCONT)
        service.stop(signal.SIGKILL)


@contextlib.contextmanager
def _nginx(folder: Path, services: list[Service]) -> Iterator[tuple[int, int]]:
    """Run nginx by deploy/nginx/upright.conf, with gRPC beside it; gives both ports."""
    program = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if program is None:
        sys.exit("nginx is needed: on Debian, apt-get install --no-install-recommends nginx-light")
    port, grpc_port = free_port(), free_port()
    servers = "\n".join(f"    server {each.host}:{each.port} max_fails=0;" for each in services)
    text = CONFIG.read_text().replace("127.0.0.1:8080", f"127.0.0.1:{port}")
    text = re.sub(r"    server 127\.0\.0\.1:8001 .*\n    server 127.*", servers, text)
    grpc_servers = servers
    for each in services:
        grpc_servers = grpc_servers.replace(f":{each.port} ", f":{each.grpc_port} ")
    text += GRPC.format(servers=grpc_servers, port=grpc_port)
    (folder / "upright.conf").write_text(text)
    config = folder / "nginx.conf"
    config.write_text(MAIN.format(folder=folder))
    log = folder / "error.log"
    with subprocess.Popen(
        [program, "-c", config, "-e", log, "-p", folder], stderr=subprocess.DEVNULL
    ) as process:
        try:
            while not _listens(port):
                if process.poll() is not None:
                    sys.exit(f"nginx did not start:\n{log.read_text()}")
                time.sleep(0.02)
            yield port, grpc_port
        finally:
            process.terminate()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def log_lines(service: Service, begin: int) -> list[str]:
    """Return what a service logged at the level of warnings and above, after some bytes."""
    events = []
    for line in service.log.read_bytes()[begin:].decode(errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            events.append(line[:100])
            continue
        if entry.get("level") in ("warning", "error", "critical"):
            events.append(str(entry.get("event", ""))[:100])
    return events
