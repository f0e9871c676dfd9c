"""A service that is told to stop loses no request."""

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx2
import pytest

from service.server.server import SAME_STOP_SECONDS
from tests.support.project import ROOT
from tests.support.raw_http import ask, request
from tests.support.service import clean_environment, free_port, reachable, wait_for

ACT = request("POST", "/act", [], [b'{"state":[0,0,0.05,0]}'])
READY = request("GET", "/health/ready", [], [])


@contextmanager
def running(
    port: int, log: Path, *arguments: str, program: tuple[str, ...] = ("-m", "service")
) -> Iterator["subprocess.Popen[bytes]"]:
    command = [sys.executable, *program, "--port", str(port), *arguments]
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command, cwd=ROOT, env=clean_environment(), stdout=output, stderr=output
        ) as process,
    ):
        try:
            wait_for(lambda: reachable(port) and ask(port, READY)[0].status == 200)
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_it_says_that_it_is_not_ready_and_still_answers_until_it_closes_properly(
    tmp_path: Path, workers: str
) -> None:
    port = free_port()
    with running(port, tmp_path / "log", "--drain", "1.5", "--workers", workers) as process:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}") as kept:
            assert kept.post("/act", json={"state": [0, 0, 0, 0]}).status_code == 200
            process.send_signal(signal.SIGTERM)
            wait_for(lambda: ask(port, READY)[0].status == 503)
            assert ask(port, request("GET", "/v2/health/ready", [], []))[0].status == 503
            assert ask(port, request("GET", "/health/live", [], []))[0].status == 200
            assert ask(port, ACT)[0].status == 200  # a new connection
            wait_for(
                lambda: "Told to stop: answering on for 1.5 s" in (tmp_path / "log").read_text()
            )
            answers = [kept.post("/act", json={"state": [0, 0, 0, 0]})]
            while answers[-1].headers.get("connection") != "close":  # until nobody listens any more
                answers.append(kept.post("/act", json={"state": [0, 0, 0, 0]}))
            assert all(answer.status_code == 200 for answer in answers)
        assert process.wait(10) == 0
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_a_request_that_is_on_its_way_is_answered_and_half_a_one_ends_in_good_order(
    tmp_path: Path,
) -> None:
    port = free_port()
    log = tmp_path / "log"
    batch = request("POST", "/v2/models/cartpole-dqn/infer", [], [b"x" * 100])[0]
    with running(port, log, "--drain", "0", "--shutdown", "1") as process:
        with (
            socket.create_connection(("127.0.0.1", port), 10) as late,
            socket.create_connection(("127.0.0.1", port), 10) as half,
            socket.create_connection(("127.0.0.1", port), 10) as fast_half,
        ):
            late.sendall(ACT[0][:-5])
            half.sendall(batch[:-5])
            fast_half.sendall(ACT[0][:-5])
            time.sleep(0.2)
            process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
            late.sendall(ACT[0][-5:])
            answered = late.makefile("rb").read()
            assert answered.startswith(b"HTTP/1.1 200 OK")
            assert b"connection: close" in answered
            assert half.makefile("rb").read().startswith(b"HTTP/1.1 503 ")
        assert process.wait(10) == 0
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_second_signal_ends_it_at_once(tmp_path: Path, workers: str) -> None:
    port = free_port()
    with running(port, tmp_path / "log", "--drain", "60", "--workers", workers) as process:
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: ask(port, READY)[0].status == 503)
        time.sleep(SAME_STOP_SECONDS + 0.1)  # a signal sooner is still the same wish to stop
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_a_restart_loses_none_of_the_requests_of_clients_that_keep_their_connections(
    tmp_path: Path,
) -> None:
    """Two services take turns on two ports; a client asks no request twice.

    It goes to the other one where one refuses to be connected to.
    """
    ports = [free_port(), free_port()]
    answered = [0]
    failed: list[str] = []
    done = threading.Event()

    def client() -> None:
        with ExitStack() as stack:
            kept = [
                stack.enter_context(httpx2.Client(base_url=f"http://127.0.0.1:{port}"))
                for port in ports
            ]
            while not done.is_set():
                for connection in kept:
                    try:
                        status = connection.post("/act", json={"state": [0, 0, 0, 0]}).status_code
                    except httpx2.ConnectError:
                        continue  # nobody listens there
                    except httpx2.HTTPError as error:
                        failed.append(repr(error))
                        continue
                    answered[0] += status == 200
                    if status != 200:
                        failed.append(str(status))

    threads = [threading.Thread(target=client) for _ in range(4)]
    with running(ports[1], tmp_path / "b", "--drain", "0.3"):
        for number in range(3):
            with running(ports[0], tmp_path / f"a{number}", "--drain", "0.3") as process:
                if number == 0:
                    for thread in threads:
                        thread.start()
                time.sleep(0.5)
                process.send_signal(signal.SIGTERM)
                assert process.wait(10) == 0
        done.set()
        for thread in threads:
            thread.join()
    assert failed == []
    assert answered[0] > 100
