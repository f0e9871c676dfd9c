"""`--bundle-wait`: a start that waits for a bundle which comes later."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from models.bundle import Bundle
from tests.support.metrics import samples
from tests.support.project import ROOT
from tests.support.service import (
    Start,
    clean_environment,
    free_port,
    reachable,
    refused,
    run_program,
    wait_for,
)

STATE = {"state": [0.0, 0.0, 0.05, 0.0]}
WAIT = ("--bundle-wait", "30")


@contextmanager
def waiting(folder: Path, *arguments: str) -> Iterator[tuple["subprocess.Popen[bytes]", str]]:
    port = free_port()
    command = [sys.executable, "-m", "service", "--port", str(port), "--bundle", str(folder)]
    with subprocess.Popen(
        [*command, *WAIT, *arguments],
        cwd=ROOT,
        env=clean_environment() | {"XDG_RUNTIME_DIR": str(folder.parent)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            wait_for(lambda: reachable(port))
            yield process, f"http://127.0.0.1:{port}"
        finally:
            process.kill()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_late_bundle_is_served_where_the_service_was_alive_and_not_ready(
    committed: Bundle, tmp_path: Path, workers: str
) -> None:
    folder = tmp_path / "late"
    with waiting(folder, "--workers", workers, "--drain", "0") as (process, address):
        with httpx2.Client(base_url=address) as client:
            assert client.get("/health/live").json() == {"status": "live"}
            assert client.get("/v2/health/live").json() == {"live": True}
            for path in ("/health/ready", "/v2/health/ready", "/model"):
                assert client.get(path).status_code == 503
            refusal = client.post("/act", json=STATE)
            assert refusal.status_code == 503
            assert refusal.json()["type"].endswith("not-ready")
            assert refusal.headers["retry-after"]
            assert samples(client.get("/metrics").text)["upright_ready", ()] == 0

        # Copied file by file, as a slow volume shows it: the manifest comes first.
        folder.mkdir()
        for file in sorted(committed.folder.iterdir()):
            shutil.copy(file, folder)
            time.sleep(0.1)

        # Who calls while the processes start waits for an answer, on a loaded machine for long.
        with httpx2.Client(base_url=address, timeout=60) as client:
            wait_for(lambda: client.get("/health/ready").status_code == 200)
            assert client.post("/act", json=STATE).json()["action"] == 1
            assert samples(client.get("/metrics").text)["upright_ready", ()] == 1
        process.terminate()
        assert process.wait(10) == 0


def test_nobody_who_calls_while_the_bundle_comes_is_refused_a_connection(
    committed: Bundle, tmp_path: Path
) -> None:
    folder = tmp_path / "late"
    with waiting(folder) as (_, address):
        shutil.copytree(committed.folder, folder)
        statuses = set()
        until = time.monotonic() + 10
        while 200 not in statuses and time.monotonic() < until:
            statuses.add(httpx2.get(f"{address}/health/ready", timeout=10).status_code)
        assert statuses <= {200, 503}
        assert 200 in statuses


def test_a_bundle_that_never_comes_ends_the_process_with_its_reason(tmp_path: Path) -> None:
    folder = tmp_path / "never"
    code, error = refused("--bundle-wait", "0.5", "--bundle", str(folder))
    assert code == 1
    last = error.splitlines()[-1]
    assert last.startswith("upright: --bundle-wait 0.5: no bundle came in this time; ")
    assert str(folder) in last
    assert "Traceback" not in error


def test_a_service_that_waits_says_so_to_its_health_check_and_ends_by_a_signal(
    tmp_path: Path,
) -> None:
    with waiting(tmp_path / "late") as (process, _):
        folder = {"XDG_RUNTIME_DIR": str(tmp_path)}
        health = run_program("health", environment=folder)
        assert (health.returncode, "waits for its bundle" in health.stderr) == (1, True)
        process.terminate()
        assert process.wait(10) == 0
        assert process.stderr is not None
        assert b"Told to stop while waiting for a bundle" in process.stderr.read()


def test_what_needs_a_key_needs_it_while_waiting_too(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    added = run_program("key", "prometheus", "--scope", "metrics", "--keys", keys)
    assert added.returncode == 0, added.stderr
    with waiting(tmp_path / "late", "--keys", str(keys)) as (_, address):
        assert httpx2.get(f"{address}/health/live").status_code == 200
        assert httpx2.get(f"{address}/metrics").status_code == 401


def test_a_bundle_that_is_there_is_not_waited_for(start: Start) -> None:
    with start(*WAIT) as address:
        wait_for(lambda: httpx2.get(f"{address}/health/ready").status_code == 200, 10)
        answer = httpx2.post(f"{address}/act", content=json.dumps(STATE))
        assert answer.json()["action"] == 1
