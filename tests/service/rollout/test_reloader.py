"""Another bundle in a running service goes live whole or not at all, unnoticed by requests."""

import asyncio
import gc
import json
import os
import re
import signal
import threading
import warnings
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from starlette.types import Message

from benchmarks.operations import bundles, reload
from models import bundle
from models.bundle import Bundle
from service.inference.loading import load
from service.rollout.reloader import Reloader
from service.server.application import create_application
from service.state import ServiceState
from tests.support.metrics import samples
from tests.support.service import Start, free_port, settings, wait_for

with warnings.catch_warnings():
    warnings.simplefilter(
        "ignore"
    )  # what other people's modules warn of when they are imported is no claim of ours
    import tritonclient.grpc
    from tritonclient.utils import InferenceServerException

STATE = {"state": [0, 0, 0.05, 0]}
LOAD = "/v2/repository/models/cartpole-dqn/load"

Write = Callable[..., str]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "bundle"


@pytest.fixture
def write(committed: Bundle, folder: Path) -> Write:
    """Put a bundle of this version into the folder that is served, and return its digest."""

    def written(version: str, **manifest: object) -> str:
        return bundles.relative(
            committed, folder, bundles.halved, version=version, **manifest
        ).digest

    return written


def live(address: str) -> str:
    digest: str = httpx2.post(f"{address}/act", json=STATE).json()["digest"]
    return digest


def counted(address: str) -> dict[str, float]:
    found = samples(httpx2.get(f"{address}/metrics").text)
    return {
        outcome: found["upright_reloads_total", (outcome,)]
        for outcome in ("loaded", "unchanged", "refused")
    }


def unavailable(address: str) -> float:
    found = samples(httpx2.get(f"{address}/metrics").text)
    return found["upright_reloads_total", ("unavailable",)]


def process_of(log: Path) -> int:
    return int(re.findall(r"Started server process \[(\d+)\]", log.read_text())[0])


def test_sighup_loads_what_lies_in_the_folder_and_nothing_that_is_not_admitted(
    start: Start, tmp_path: Path, folder: Path, write: Write
) -> None:
    first, log = write("1"), tmp_path / "service.log"
    with start("--bundle", str(folder)) as address:
        assert live(address) == first
        second = write("2", name="renamed")
        os.kill(process_of(log), signal.SIGHUP)
        wait_for(lambda: live(address) == second)
        (folder / "policy.onnx").write_bytes(b"torn")
        os.kill(process_of(log), signal.SIGHUP)
        wait_for(lambda: "policy.onnx: size differs" in log.read_text())
        assert live(address) == second
        third = write("3")
        os.kill(process_of(log), signal.SIGHUP)
        wait_for(lambda: live(address) == third)
        assert counted(address) == {"loaded": 2, "unchanged": 0, "refused": 1}
        assert f'digest="{third}"' in httpx2.get(f"{address}/metrics").text
    told = [line for line in log.read_text().splitlines() if "sha256:" in line]
    words = [line.split("] ")[1].split()[0] for line in told]
    assert words == ["Serving", "loaded", "kept", "loaded"]


def test_a_load_says_what_became_of_it(
    start: Start, folder: Path, write: Write, tmp_path: Path
) -> None:
    first = write("1")
    with start("--bundle", str(folder)) as address:
        assert (httpx2.post(address + LOAD, json={}).status_code, live(address)) == (200, first)
        second = write("2")
        assert (httpx2.post(address + LOAD, json={}).json(), live(address)) == ({}, second)
        write("3", name="renamed")
        answer = httpx2.post(address + LOAD, json={})
        assert (answer.status_code, live(address)) == (409, second)
        assert "named 'renamed', not 'cartpole-dqn'" in answer.json()["error"]
        (folder / "manifest.json").write_text("{}")
        answer = httpx2.post(address + LOAD, json={})
        assert answer.status_code == 409
        assert second in answer.json()["error"]
        assert "manifest.json" in answer.json()["error"]
        assert counted(address) == {"loaded": 1, "unchanged": 1, "refused": 2}
        assert f"the bundle is unchanged: {first}" in (tmp_path / "service.log").read_text()


def test_a_load_over_grpc_does_the_same(start: Start, folder: Path, write: Write) -> None:
    write("1")
    port = free_port()
    with start("--bundle", str(folder), "--grpc-port", str(port)) as address:
        wait_for(lambda: httpx2.get(f"{address}/health/ready").status_code == 200)
        with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{port}") as client:
            second = write("2")
            client.load_model("cartpole-dqn")
            assert live(address) == second
            (folder / "policy.onnx").unlink()
            with pytest.raises(
                InferenceServerException, match=r"FAILED_PRECONDITION.*policy\.onnx"
            ):
                client.load_model("cartpole-dqn")
            assert live(address) == second


def test_a_rollback_returns_to_the_bundle_before_once(
    start: Start, folder: Path, write: Write
) -> None:
    first = write("1")
    with start("--bundle", str(folder)) as address:
        assert httpx2.post(f"{address}/model/rollback").status_code == 409
        second = write("2")
        httpx2.post(address + LOAD)
        mistaken = httpx2.post(f"{address}/model/rollback", headers={"if-match": f'"{first}"'})
        assert (mistaken.status_code, live(address)) == (412, second)
        done = httpx2.post(f"{address}/model/rollback", headers={"if-match": f'"{second}"'})
        assert (done.json(), live(address)) == ({"outcome": "loaded", "digest": first}, first)
        again = httpx2.post(f"{address}/model/rollback")
        assert (again.status_code, again.headers["content-type"]) == (
            409,
            "application/problem+json",
        )
        assert again.json()["type"] == "urn:upright:problem:no-rollback"
        assert live(address) == first
        httpx2.post(address + LOAD)
        assert live(address) == second


def test_a_rollback_without_a_bundle_to_return_to_is_neither_a_refused_reload_nor_an_error(
    start: Start, tmp_path: Path
) -> None:
    with start() as address:
        for path in ("/model/rollback", "/shadow/promote", "/model/rollback"):
            assert httpx2.post(address + path).status_code == 409
        assert counted(address) == {"loaded": 0, "unchanged": 0, "refused": 0}
        assert unavailable(address) == 3
    assert "error" not in (tmp_path / "service.log").read_text()


def test_a_watched_folder_is_loaded_when_it_changes_and_a_rollback_stands(
    start: Start, tmp_path: Path, folder: Path, write: Write
) -> None:
    first, log = write("1"), tmp_path / "service.log"
    with start("--bundle", str(folder), "--watch", "0.1") as address:
        second = write("2")
        wait_for(lambda: live(address) == second)
        httpx2.post(f"{address}/model/rollback")
        looks = counted(address)
        threading.Event().wait(1)  # ten looks at a folder that has not changed
        assert (live(address), counted(address)) == (first, looks)
        (folder / "policy.onnx").write_bytes(b"torn")
        wait_for(lambda: "policy.onnx: size differs" in log.read_text())
        third = write("3")
        wait_for(lambda: live(address) == third)


def test_what_was_replaced_before_the_first_look_is_loaded_by_it(
    start: Start, folder: Path, write: Write
) -> None:
    write("1")
    with start("--bundle", str(folder), "--watch", "1") as address:
        second = write("2")
        wait_for(lambda: live(address) == second)


def test_a_request_whose_body_comes_late_is_answered_by_the_bundle_that_it_began_with(
    folder: Path, write: Write
) -> None:
    first = write("1")
    service_state = ServiceState(load(bundle.read(folder), "onnx"))
    app = create_application(settings(bundle=folder), service_state)

    async def post(path: str, before: Callable[[], object], body: bytes) -> bytes:
        sent: list[Message] = []

        async def receive() -> Message:
            found = before()
            if asyncio.iscoroutine(found):
                await found
            return {"type": "http.request", "body": body}

        async def send(message: Message) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [],
        }
        await app(
            scope
            | {
                "asgi": {"version": "3.0"},
                "http_version": "1.1",
                "scheme": "http",
                "root_path": "",
            },
            receive,
            send,
        )
        return b"".join(message.get("body", b"") for message in sent)

    async def both() -> tuple[bytes, bytes]:
        second = write("2")
        act = json.dumps(STATE).encode()
        late = await post("/act", lambda: post(LOAD, lambda: None, b"{}"), act)
        assert service_state.policy.bundle.digest == second
        return late, await post("/act", lambda: None, act)

    late, after = asyncio.run(both())
    assert (json.loads(late)["digest"], json.loads(after)["digest"]) == (
        first,
        service_state.policy.bundle.digest,
    )


def test_loads_that_come_together_wait_for_each_other(
    start: Start, folder: Path, write: Write
) -> None:
    write("1")
    with start("--bundle", str(folder)) as address, ThreadPoolExecutor(8) as callers:
        second = write("2")
        answers = list(callers.map(lambda _: httpx2.post(address + LOAD).status_code, range(16)))
        assert (answers, live(address)) == ([200] * 16, second)
        assert counted(address) == {"loaded": 1, "unchanged": 15, "refused": 0}


def test_a_bundle_that_was_left_behind_is_given_up(folder: Path, write: Write) -> None:
    write("0")
    service_state = ServiceState(load(bundle.read(folder), "onnx"))
    first = weakref.ref(service_state.policy)

    async def leave() -> None:
        reloader = Reloader(settings(bundle=folder), service_state)
        for version in ("1", "2", "3"):
            write(version)
            assert (await reloader.load()).outcome == "loaded"

    gc.disable()  # what needs the collector lives as long as it pleases
    try:
        asyncio.run(leave())
        assert first() is None
    finally:
        gc.enable()


def test_reloads_of_good_and_bad_bundles_under_load_lose_no_answer_and_let_no_bad_bundle_live(
    tmp_path: Path,
) -> None:
    seen = reload.soak(tmp_path, reloads=150, settled=75, window=75, seed=1)
    assert (seen.wrong, seen.shown, seen.bad_live) == (0, [], 0)
    for kind, statuses in seen.reloads.items():
        assert set(statuses) == {200 if kind in reload.GOOD else 409}
    assert min(seen.bundles.values()) > 0
    assert seen.answers == sum(seen.bundles.values())
