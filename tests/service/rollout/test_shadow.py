"""A shadow answers the same states unseen: it is compared, can be promoted, and harms nobody."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from starlette.testclient import TestClient

from benchmarks.operations import bundles
from models.bundle import Bundle
from service.inference.backends import Float32Array
from service.inference.loading import load
from service.inference.policy import Inference, Policy
from service.rollout import shadow
from service.rollout.shadow import Shadow
from service.server.application import create_application
from service.state import ServiceState
from tests.support.backends import FixedBackend
from tests.support.metrics import samples
from tests.support.project import COMMITTED
from tests.support.service import Start, settings, wait_for

STATE = [0.0, 0.0, 0.05, 0.0]  # Q-values 10.6 and 11.8
OTHER = [0.0, 0.0, -0.05, 0.0]


@pytest.fixture
def contrary(tmp_path: Path, committed: Bundle) -> Bundle:
    """A bundle that always chooses the other action."""
    return bundles.relative(committed, tmp_path / "contrary", bundles.exchanged)


def found(client: TestClient | httpx2.Client, states: int) -> dict[str, Any]:
    """Return the shadow's report once so many states were dealt with."""
    wait_for(
        lambda: (
            sum(client.get("/shadow").json()[name] for name in ("compared", "failed", "dropped"))
            >= states
        )
    )
    report: dict[str, Any] = client.get("/shadow").json()
    return report


def app(policy: Policy, shadow: Policy, **changes: object) -> TestClient:
    return TestClient(create_application(settings(**changes), ServiceState(policy), shadow=shadow))


def test_a_twin_agrees_on_every_state_of_every_door(committed: Bundle) -> None:
    with app(load(committed, "onnx"), load(committed, "onnx")) as client:
        for _ in range(100):
            assert client.post("/act", json={"state": STATE}).status_code == 200
        client.post("/act/batch", json={"states": [STATE, OTHER] * 200})
        tensor = {"name": "state", "shape": [2, 4], "datatype": "FP32", "data": STATE + OTHER}
        client.post("/v2/models/cartpole-dqn/infer", json={"inputs": [tensor]})
        report = found(client, 502)
        assert (
            report["compared"],
            report["agreed"],
            report["disagreed"],
            report["failed"],
            report["dropped"],
        ) == (502, 502, 0, 0, 0)
        assert report["live_seconds"] > 0
        assert report["shadow_seconds"] > 0


@pytest.mark.parametrize(("margin", "widely"), [(0.01, 3), (0.03, 2)])
def test_disagreement_is_counted_and_where_the_answer_was_clear_as_wide(
    committed: Bundle, contrary: Bundle, margin: float, widely: int
) -> None:
    policy = load(committed, "onnx")
    states = [STATE, STATE, OTHER]
    gaps = [abs(row[0] - row[1]) for row in policy.decide(np.array(states, np.float32)).q_values]
    assert sum(gap >= margin for gap in gaps) == widely
    with app(policy, load(contrary, "onnx"), shadow_margin=margin) as client:
        answers = [client.post("/act", json={"state": state}).json() for state in states]
        assert [answer["action"] for answer in answers] == [1, 1, 0]
        assert {answer["digest"] for answer in answers} == {committed.digest}
        report = found(client, 3)
        assert (report["agreed"], report["disagreed"], report["disagreed_widely"]) == (0, 3, widely)
        assert (report["digest"], report["live"]) == (contrary.digest, committed.digest)
        counts = samples(client.get("/metrics").text)
        assert counts["upright_shadow_states_total", ("disagreed_widely",)] == widely
        assert counts["upright_shadow_states_total", ("disagreed",)] == 3 - widely


def test_a_shadow_that_fails_harms_nobody(
    committed: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    failing = load(committed, "onnx")
    failing._backend = FixedBackend(
        np.nan, np.nan
    )  # the seam of a failure that cannot happen on demand
    with app(load(committed, "onnx"), failing) as client:
        for _ in range(20):
            assert client.post("/act", json={"state": STATE}).json()["action"] == 1
        client.post("/act/batch", json={"states": [STATE] * 5})
        report = found(client, 25)
        assert (report["failed"], report["compared"], report["shadow_seconds"]) == (25, 0, None)
        assert [
            record.getMessage() for record in caplog.records if "shadow" in record.getMessage()
        ] == [
            f"the shadow {committed.digest} failed: the policy has no finite Q-values for state 0"
        ]


def test_one_state_without_an_answer_costs_the_others_nothing(committed: Bundle) -> None:
    class Moody:
        """Has no answer to states that lean to the left, which no real backend does on demand."""

        def __init__(self, policy: Policy) -> None:
            self._backend = policy._backend

        def q_values(self, states: Float32Array) -> Float32Array:
            found = self._backend.q_values(states).copy()
            found[states[:, 2] < 0] = np.nan
            return found

    moody = load(committed, "onnx")
    moody._backend = Moody(moody)
    with app(load(committed, "onnx"), moody) as client:
        for state in (STATE, OTHER, STATE, STATE):
            client.post("/act", json={"state": state})
        report = found(client, 4)
        assert (report["failed"], report["agreed"]) == (1, 3)


def test_a_full_queue_drops_and_counts(committed: Bundle) -> None:
    service_state = ServiceState(load(committed, "onnx"))
    idle = Shadow(
        load(committed, "onnx"), service_state, 1.0
    )  # never started: nothing is worked off
    inference = Inference(
        service_state.policy,
        [(0.0, 0.0, 0.05, 0.0)] * 1_000,
        [[10.6, 11.8]] * 1_000,
        [1] * 1_000,
        [[]] * 1_000,
        1e-5,
    )
    for _ in range(20):
        idle.enqueue(inference, "id")
    assert idle.report().dropped == 20_000 - shadow.QUEUE_LIMIT // 1_000 * 1_000


def test_without_a_shadow_there_is_none_to_look_at_or_to_promote(client: TestClient) -> None:
    for method, path, status in (("GET", "/shadow", 404), ("POST", "/shadow/promote", 409)):
        answer = client.request(method, path)
        assert (answer.status_code, answer.headers["content-type"]) == (
            status,
            "application/problem+json",
        )


@pytest.fixture
def shadowed(start: Start, contrary: Bundle) -> Iterator[httpx2.Client]:
    """The real server with a shadow."""
    with (
        start("--shadow", str(contrary.folder)) as address,
        httpx2.Client(base_url=address) as client,
    ):
        yield client


def test_the_real_server_compares_promotes_and_rolls_back(
    shadowed: httpx2.Client, committed: Bundle, contrary: Bundle
) -> None:
    answers = [shadowed.post("/act", json={"state": STATE}).json() for _ in range(50)]
    assert {(answer["action"], answer["digest"]) for answer in answers} == {(1, committed.digest)}
    assert found(shadowed, 50)["disagreed"] == 50
    mistaken = shadowed.post("/shadow/promote", headers={"if-match": f'"{contrary.digest}"'})
    assert mistaken.status_code == 412
    promoted = shadowed.post("/shadow/promote", headers={"if-match": f'"{committed.digest}"'})
    assert promoted.json() == {"outcome": "loaded", "digest": contrary.digest}
    answer = shadowed.post("/act", json={"state": STATE}).json()
    assert (answer["action"], answer["digest"]) == (0, contrary.digest)
    assert shadowed.get("/shadow").status_code == 404
    assert shadowed.post("/shadow/promote").status_code == 409
    assert shadowed.post("/model/rollback").json()["digest"] == committed.digest
    answer = shadowed.post("/act", json={"state": STATE}).json()
    assert (answer["action"], answer["digest"]) == (1, committed.digest)


def test_a_shadow_that_is_loaded_from_the_folder_is_compared_no_more(
    start: Start, tmp_path: Path, committed: Bundle
) -> None:
    folder = tmp_path / "live"
    bundles.relative(committed, folder, bundles.halved)
    with (
        start("--bundle", str(folder), "--shadow", str(COMMITTED)) as address,
        httpx2.Client(base_url=address) as client,
    ):
        assert client.get("/shadow").json()["digest"] == committed.digest
        folder.rename(tmp_path / "aside")
        folder.symlink_to(COMMITTED)
        assert client.post("/v2/repository/models/cartpole-dqn/load").status_code == 200
        assert client.get("/shadow").status_code == 404
