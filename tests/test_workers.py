"""Several processes behind one port, as one service."""

import contextlib
import os
import re
import shutil
import signal
import time
from pathlib import Path

import httpx2
import pytest

from tests.conftest import COMMITTED, Start
from tests.test_metrics import samples
from tests.test_start import refused

STATE = {"state": [0, 0, 0.05, 0]}


def ask(address: str, times: int) -> None:
    for _ in range(times):  # each on a connection of its own, so that every process gets some
        assert httpx2.post(f"{address}/act", json=STATE).json()["action_name"] == "right"


def answered(address: str) -> float:
    return samples(httpx2.get(f"{address}/metrics").text)["upright_requests_total", ("/act", "200")]


def workers_of(log: Path) -> list[int]:
    return [int(number) for number in re.findall(r"Started server process \[(\d+)\]", log.read_text())]


def wait_for(log: Path, processes: int) -> list[int]:
    for _ in range(400):
        if len(found := workers_of(log)) >= processes and log.read_text().count("startup complete") >= processes:
            return found
        time.sleep(0.05)
    raise AssertionError(log.read_text())


def test_metrics_of_all_workers_add_up_also_after_one_has_died(start: Start, tmp_path: Path) -> None:
    log = tmp_path / "service.log"
    with start("--workers", "2") as address:
        first, _ = wait_for(log, 2)
        ask(address, 20)
        assert [answered(address) for _ in range(8)] == [20] * 8
        os.kill(first, signal.SIGKILL)
        wait_for(log, 3)
        ask(address, 20)
        assert [answered(address) for _ in range(8)] == [40] * 8


def test_sighup_brings_a_new_bundle_to_all_workers_and_a_broken_one_to_none(start: Start, tmp_path: Path) -> None:
    log, folder = tmp_path / "service.log", tmp_path / "bundle"
    shutil.copytree(COMMITTED, folder)
    manifest = folder / "manifest.json"
    with start("--workers", "2", "--bundle", str(folder)) as address:
        wait_for(log, 2)
        parent = int(re.findall(r"Started parent process \[(\d+)\]", log.read_text())[0])
        manifest.write_text(manifest.read_text().replace('"cartpole-dqn"', '"renamed"'))
        os.kill(parent, signal.SIGHUP)
        wait_for(log, 4)
        names = set()
        for _ in range(100):
            # A connection that comes in the moment in which its process ends is closed unanswered; a client tries again.
            with contextlib.suppress(httpx2.RemoteProtocolError):
                names = {httpx2.post(f"{address}/act", json=STATE).json()["model"] for _ in range(8)}
            if names == {"renamed"}:
                break
            time.sleep(0.05)
        assert names == {"renamed"}
        manifest.write_text("{}")
        os.kill(parent, signal.SIGHUP)
        for _ in range(400):
            if "aborting the restart" in log.read_text():
                break
            time.sleep(0.05)
        assert "manifest.json" in log.read_text()
        assert {httpx2.post(f"{address}/act", json=STATE).json()["model"] for _ in range(8)} == {"renamed"}


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_broken_bundle_stops_the_start_of_any_number_of_workers_with_one_line(tmp_path: Path, workers: str) -> None:
    code, complaint = refused("--workers", workers, "--bundle", str(tmp_path))
    assert code == 1
    assert complaint.count("\n") == 1
