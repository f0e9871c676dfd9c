"""A stop under load fails no request, whoever is told to stop and how often within a moment."""

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.test_drain import running
from tests.support.raw_http import request
from tests.support.service import free_port

ACT = request("POST", "/act", [], [b'{"state":[0,0,0.05,0]}'])[0]
KEEPERS, COMERS = 4, 2  # threads that keep a connection, and that make one for each request


class Caller(threading.Thread):
    """Asks until nobody listens any more; notes what failed."""

    def __init__(self, port: int, *, keeps: bool) -> None:
        super().__init__()
        self.answers = 0
        self.failures: list[str] = []
        self._port = port
        self._keeps = keeps

    def run(self) -> None:
        """Ask, on one connection after the other."""
        while True:
            try:
                connection = socket.create_connection(("127.0.0.1", self._port), 10)
            except (ConnectionRefusedError, ConnectionResetError):
                return  # nobody listens any more; nothing was sent
            with connection:
                try:
                    self._ask(connection)
                except OSError as error:
                    self.failures.append(repr(error))

    def _ask(self, connection: socket.socket) -> None:
        with connection.makefile("rb") as answers:
            closes = False
            while not closes:
                connection.sendall(ACT)
                status = answers.readline()
                if not status.startswith(b"HTTP/1.1 200 "):
                    self.failures.append(repr(status))
                    return
                length = 0
                while (line := answers.readline().lower()) not in (b"\r\n", b""):
                    if line.startswith(b"content-length: "):
                        length = int(line[16:])
                    closes = closes or line == b"connection: close\r\n"
                if len(answers.read(length)) != length:
                    self.failures.append("half an answer")
                    return
                self.answers += 1
                closes = closes or not self._keeps


def processes_of(parent: int) -> list[int]:
    """Return the process and those that it started and that serve."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [parent, *map(int, children)]


def to_the_parent(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGTERM)


def to_everybody(process: "subprocess.Popen[bytes]") -> None:
    # As systemd does for all processes of a unit.
    for pid in processes_of(process.pid):
        os.kill(pid, signal.SIGTERM)


def twice(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGTERM)
    time.sleep(0.005)
    process.send_signal(signal.SIGTERM)


@pytest.mark.parametrize("stop", [to_the_parent, to_everybody, twice])
@pytest.mark.parametrize("drain", ["0", "0.5"])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_no_request_fails(
    tmp_path: Path, workers: str, drain: str, stop: Callable[["subprocess.Popen[bytes]"], None]
) -> None:
    port = free_port()
    log = tmp_path / "log"
    with running(port, log, "--drain", drain, "--workers", workers) as process:
        callers = [Caller(port, keeps=index < KEEPERS) for index in range(KEEPERS + COMERS)]
        for caller in callers:
            caller.start()
        time.sleep(0.5)
        stop(process)
        for caller in callers:
            caller.join(20)
        assert process.wait(20) == 0
    assert [failure for caller in callers for failure in caller.failures] == []
    assert all(caller.answers > 50 for caller in callers)
    assert "Traceback" not in log.read_text()
