"""Several processes outlive cleaned folders, early signals and the service after them."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from tests.end_to_end.test_drain import ACT, READY, running
from tests.support.metrics import samples
from tests.support.project import ROOT
from tests.support.raw_http import ask, request
from tests.support.service import clean_environment, free_port, reachable, wait_for


def children(pid: int) -> list[int]:
    return [*map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


def serving(pid: int) -> list[int]:
    """Return the processes that serve: those with a thread for reloads or a listening loop."""
    return [
        child
        for child in children(pid)
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


def unchanged_reloads(port: int) -> float:
    text = httpx2.get(f"http://127.0.0.1:{port}/metrics").text
    return samples(text).get(("upright_reloads_total", ("unchanged",)), 0)


def answers(port: int) -> bool:
    return reachable(port) and ask(port, ACT)[0].status == 200


@contextmanager
def in_folder(port: int, folder: Path, *arguments: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Start two processes whose temporary files lie in a folder."""
    log = folder / "log"
    temp_folder = folder / "temp"
    temp_folder.mkdir()
    command = [sys.executable, "-m", "service", "--port", str(port), "--workers", "2", *arguments]
    environment = clean_environment() | {"TMPDIR": str(temp_folder)}
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=output
        ) as process,
    ):
        try:
            wait_for(lambda: answers(port))
            wait_for(lambda: log.read_bytes().count(b"startup complete") == 2)
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("removed", ["a bundle", "the bundles", "all"])
def test_processes_are_replaced_though_the_temporary_folder_was_cleaned(
    tmp_path: Path, removed: str
) -> None:
    port = free_port()
    with in_folder(port, tmp_path, "--drain", "0") as process:
        [shared] = (tmp_path / "temp").glob("upright-bundles-*")
        if removed == "a bundle":
            [stored] = [each for each in shared.iterdir() if each.is_dir()]
            (stored / "policy.onnx").unlink()
        elif removed == "the bundles":
            shutil.rmtree(shared)
        else:
            temp_folder = tmp_path / "temp"
            while temp_folder.exists():  # the service may write there meanwhile
                shutil.rmtree(temp_folder, ignore_errors=True)
            temp_folder.mkdir()
        for pid in serving(process.pid):
            os.kill(pid, signal.SIGKILL)
        log = tmp_path / "log"
        wait_for(lambda: log.read_bytes().count(b"startup complete") == 4, 20)
        assert answers(port)
        process.send_signal(signal.SIGHUP)  # a reload works too
        wait_for(lambda: unchanged_reloads(port) >= 1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    assert "Traceback" not in log.read_text()


def test_processes_that_end_at_once_are_replaced_at_growing_intervals(tmp_path: Path) -> None:
    port = free_port()
    with in_folder(port, tmp_path, "--drain", "0") as process:
        killed = 0
        ends = time.monotonic() + 4
        while time.monotonic() < ends:
            for pid in serving(process.pid):
                os.kill(pid, signal.SIGKILL)
                killed += 1
            time.sleep(0.02)
        assert 4 <= killed <= 16
        wait_for(lambda: answers(port), 20)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    assert "in 0.2 s" in (tmp_path / "log").read_text()


def test_without_a_temporary_folder_it_says_so_in_one_line() -> None:
    # TMPDIR is not the only place that Python tries, so all of them are made unusable.
    program = (
        "import sys, tempfile; tempfile._candidate_tempdir_list = lambda: ['/nonexistent'];"
        "from service.__main__ import main;"
        "sys.exit(main(['--port', '0', '--workers', '2']))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert result.returncode == 1
    assert "--workers 2 needs a temporary folder that can be written" in result.stderr
    assert "Traceback" not in result.stderr


def holds_back_hangups(process: "subprocess.Popen[bytes]") -> bool:
    """Whether Python has started so far that the service's own first line has been run."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    blocked = int(status.split("SigBlk:")[1].split()[0], 16)
    return bool(blocked & 1 << (signal.SIGHUP - 1))


@pytest.mark.parametrize("seconds", [0, 0.1, 0.25])
def test_a_hangup_during_the_start_does_not_end_it(tmp_path: Path, seconds: float) -> None:
    port = free_port()
    log = tmp_path / "log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [sys.executable, "-m", "service", "--port", str(port), "--drain", "0"],
            cwd=ROOT,
            env=clean_environment(),
            stdout=output,
            stderr=output,
        ) as process,
    ):
        wait_for(lambda: holds_back_hangups(process))
        time.sleep(seconds)
        process.send_signal(signal.SIGHUP)
        wait_for(lambda: answers(port))
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_signal_at_any_moment_of_a_stop_is_no_other_end(
    tmp_path: Path, workers: str, number: signal.Signals
) -> None:
    log = tmp_path / "log"
    with running(free_port(), log, "--drain", "0", "--workers", workers) as process:
        process.send_signal(signal.SIGTERM)
        while process.poll() is None:
            process.send_signal(number)
            time.sleep(0.0002)
        assert process.returncode == 0
    assert "Traceback" not in log.read_text()


def test_while_it_stops_nobody_is_let_in_to_wait_in_vain(tmp_path: Path) -> None:
    port = free_port()
    arguments = ("--drain", "0", "--workers", "2", "--shutdown", "5")
    with running(port, tmp_path / "log", *arguments) as process:
        with socket.create_connection(("127.0.0.1", port), 10) as half:
            half.sendall(request("POST", "/act/batch", [], [b"x" * 100])[0][:-5])
            time.sleep(0.2)
            process.send_signal(signal.SIGTERM)
            time.sleep(1)
            assert process.poll() is None  # it waits for the half request
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port), 10)
        assert process.wait(15) == 0


def test_a_service_that_stops_leaves_the_socket_of_its_successor(tmp_path: Path) -> None:
    path = tmp_path / "upright.sock"
    unix = ("--uds", str(path), "--drain", "0")
    first, second = free_port(), free_port()
    with (
        running(first, tmp_path / "first", *unix, "--shutdown", "10") as old,
        socket.create_connection(("127.0.0.1", first), 10) as half,
    ):
        half.sendall(request("POST", "/act/batch", [], [b"x" * 100])[0][:-5])
        time.sleep(0.2)
        old.send_signal(signal.SIGTERM)
        wait_for(lambda: not reachable(first))
        with running(second, tmp_path / "second", *unix):
            half.close()
            assert old.wait(15) == 0
            with socket.socket(socket.AF_UNIX) as caller:
                caller.connect(str(path))
                caller.sendall(READY[0])
                assert caller.recv(100).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_it_is_logged_that_the_socket_has_gone(tmp_path: Path, workers: str) -> None:
    path, log = tmp_path / "upright.sock", tmp_path / "log"
    with running(free_port(), log, "--uds", str(path), "--workers", workers) as process:
        path.unlink()
        wait_for(lambda: "somebody has removed or replaced the socket's file" in log.read_text())
        time.sleep(1.5)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
    assert log.read_text().count("somebody has removed or replaced") == 1


def test_systemd_is_told_of_start_reload_and_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        listener.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        with running(free_port(), tmp_path / "log", "--drain", "0") as process:
            messages = [listener.recv(100)]
            process.send_signal(signal.SIGHUP)
            while len([each for each in messages if each == b"READY=1"]) < 2:
                messages.append(listener.recv(100))
            process.send_signal(signal.SIGTERM)
            while messages[-1] != b"STOPPING=1":
                messages.append(listener.recv(100))
            assert process.wait(10) == 0
    told = [each.partition(b"=")[0] for each in messages]
    assert b"WATCHDOG" in told
    assert [each for each in told if each != b"WATCHDOG"] == [
        b"READY", b"RELOADING", b"READY", b"STOPPING",
    ]  # fmt: skip
