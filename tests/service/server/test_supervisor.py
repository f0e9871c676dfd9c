"""Several processes behind one port, as one service."""

import os
import re
import signal
import time
from pathlib import Path

import httpx2
import pytest

from benchmarks.operations import bundles
from models.bundle import Bundle
from tests.support.metrics import samples
from tests.support.service import Start, refused

STATE = {"state": [0, 0, 0.05, 0]}


def ask(address: str, times: int) -> None:
    for _ in range(times):  # each on a connection of its own, so that every process gets some
        assert httpx2.post(f"{address}/act", json=STATE).json()["action_name"] == "right"


def answered(address: str) -> float:
    return samples(httpx2.get(f"{address}/metrics").text)["upright_requests_total", ("/act", "200")]


def workers_of(log: Path) -> list[int]:
    return [
        int(number) for number in re.findall(r"Started server process \[(\d+)\]", log.read_text())
    ]


def wait_for(log: Path, processes: int) -> list[int]:
    for _ in range(400):
        if (
            len(found := workers_of(log)) >= processes
            and log.read_text().count("startup complete") >= processes
        ):
            return found
        time.sleep(0.05)
    raise AssertionError(log.read_text())


def test_metrics_of_all_workers_add_up_also_after_one_has_died(
    start: Start, tmp_path: Path
) -> None:
    log = tmp_path / "service.log"
    with start("--workers", "2") as address:
        first, _ = wait_for(log, 2)
        ask(address, 20)
        assert [answered(address) for _ in range(8)] == [20] * 8
        os.kill(first, signal.SIGKILL)
        wait_for(log, 3)
        ask(address, 20)
        assert [answered(address) for _ in range(8)] == [40] * 8


def served_by_all(address: str) -> set[str]:
    """Return the digests in answers on connections of their own, so that all processes answer."""
    return {httpx2.post(f"{address}/act", json=STATE).json()["digest"] for _ in range(12)}


def wait_until_all_serve(address: str, digest: str) -> None:
    for _ in range(400):
        if served_by_all(address) == {digest}:
            return
        time.sleep(0.05)
    raise AssertionError(f"{served_by_all(address)}, expected {digest}")


def test_sighup_brings_a_new_bundle_to_all_workers_and_a_broken_one_to_none(
    start: Start, tmp_path: Path, committed: Bundle
) -> None:
    log, folder = tmp_path / "service.log", tmp_path / "bundle"
    bundles.relative(committed, folder, bundles.halved)
    with start("--workers", "2", "--bundle", str(folder)) as address:
        wait_for(log, 2)
        parent = int(re.findall(r"Started parent process \[(\d+)\]", log.read_text())[0])
        second = bundles.relative(committed, folder, bundles.halved, name="renamed").digest
        os.kill(parent, signal.SIGHUP)
        wait_until_all_serve(address, second)
        (folder / "manifest.json").write_text("{}")
        os.kill(parent, signal.SIGHUP)
        for _ in range(400):
            if log.read_text().count("manifest.json: not a manifest") == 2:
                break
            time.sleep(0.05)
        assert served_by_all(address) == {second}
        found = samples(httpx2.get(f"{address}/metrics").text)
        assert [
            found["upright_reloads_total", (outcome,)]
            for outcome in ("loaded", "unchanged", "refused")
        ] == [1, 1, 2]
        assert len(workers_of(log)) == 2, "the processes are those that were started"


def test_what_one_worker_loads_or_leaves_is_followed_by_all_and_by_one_that_is_started_anew(
    start: Start, tmp_path: Path, committed: Bundle
) -> None:
    log, folder = tmp_path / "service.log", tmp_path / "bundle"
    first = bundles.relative(committed, folder, bundles.halved).digest
    shadow = bundles.relative(committed, tmp_path / "shadow", bundles.exchanged).digest
    with start(
        "--workers", "3", "--bundle", str(folder), "--shadow", str(tmp_path / "shadow")
    ) as address:
        process, *_ = wait_for(log, 3)
        second = bundles.relative(committed, folder, bundles.halved, version="2").digest
        assert httpx2.post(f"{address}/v2/repository/models/cartpole-dqn/load").status_code == 200
        wait_until_all_serve(address, second)
        assert httpx2.post(f"{address}/model/rollback").json()["digest"] == first
        wait_until_all_serve(address, first)
        os.kill(process, signal.SIGKILL)
        other = wait_for(log, 4)[-1]
        wait_until_all_serve(address, first)
        assert httpx2.post(f"{address}/shadow/promote").json()["digest"] == shadow
        wait_until_all_serve(address, shadow)
        os.kill(other, signal.SIGKILL)
        wait_for(log, 5)
        wait_until_all_serve(address, shadow)
        assert {httpx2.get(f"{address}/shadow").status_code for _ in range(12)} == {404}
        assert httpx2.post(f"{address}/model/rollback").json()["digest"] == first
        wait_until_all_serve(address, first)


def test_a_watched_folder_reaches_all_workers_and_what_is_refused_is_refused_once(
    start: Start, tmp_path: Path, committed: Bundle
) -> None:
    log, folder = tmp_path / "service.log", tmp_path / "bundle"
    bundles.relative(committed, folder, bundles.halved)
    with start("--workers", "2", "--bundle", str(folder), "--watch", "0.1") as address:
        wait_for(log, 2)
        second = bundles.relative(committed, folder, bundles.halved, version="2").digest
        wait_until_all_serve(address, second)
        bundles.relative(committed, folder, bundles.halved, actions=("up", "down"))
        for _ in range(400):
            if "up, down" in log.read_text():
                break
            time.sleep(0.05)
        time.sleep(0.5)  # in which each process has looked again
        assert log.read_text().count("up, down") == 1
        assert served_by_all(address) == {second}


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_broken_bundle_stops_the_start_of_any_number_of_workers_with_one_line(
    tmp_path: Path, workers: str
) -> None:
    code, complaint = refused("--workers", workers, "--bundle", str(tmp_path))
    assert code == 1
    assert complaint.count("\n") == 1


def test_a_temporary_folder_without_room_is_named_before_the_service_listens(
    tmp_path: Path,
) -> None:
    environment = {"TMPDIR": str(tmp_path)}
    code, error = refused("--workers", "2", environment=environment, file_limit=2_000)
    assert code == 1
    assert error.startswith("upright: --workers 2 needs a temporary folder that can be written")
    assert str(tmp_path) in error
    assert len(error.splitlines()) == 1
    assert [path for path in tmp_path.iterdir() if not path.name.startswith("upright-0")] == []
