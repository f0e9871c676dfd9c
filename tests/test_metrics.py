"""What is counted, and that processes count together."""

from pathlib import Path

import pytest
from prometheus_client import CONTENT_TYPE_LATEST
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from models.bundle import Bundle
from service.metrics import EXPOSITION_TYPE, INFERENCE_BOUNDS, REQUEST_BOUNDS, Metrics, door_of

STATE = [0.0, 0.0, 0.05, 0.0]


def samples(text: str) -> dict[tuple[str, tuple[str, ...]], float]:
    """Return every sample by its name and its label values."""
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_requests_inferences_and_actions_are_counted(client: TestClient) -> None:
    for _ in range(3):
        client.post("/act", json={"state": STATE})
    client.post("/act", content="nonsense")
    client.post("/act/batch", json={"states": [STATE, [0, 0, -0.05, 0]]})
    client.get("/nowhere/at/all")
    answer = client.get("/metrics")
    assert answer.headers["content-type"] == EXPOSITION_TYPE
    found = samples(answer.text)
    assert found["upright_requests_total", ("/act", "200")] == 3
    assert found["upright_requests_total", ("/act", "400")] == 1
    assert found["upright_requests_total", ("/act/batch", "200")] == 1
    assert found["upright_requests_total", ("other", "404")] == 1
    assert found["upright_request_seconds_count", ("/act",)] == 4
    assert found["upright_inference_seconds_count", ()] == 4
    assert (found["upright_actions_total", ("left",)], found["upright_actions_total", ("right",)]) == (1, 4)
    assert found["upright_request_seconds_sum", ("/act",)] > found["upright_inference_seconds_sum", ()] > 0


def test_the_bundle_served_is_a_label(client: TestClient, committed: Bundle) -> None:
    assert f'upright_bundle_info{{digest="{committed.digest}",model="cartpole-dqn"}} 1.0' in client.get("/metrics").text


def test_the_content_type_is_the_librarys() -> None:
    assert EXPOSITION_TYPE in (CONTENT_TYPE_PLAIN_0_0_4, CONTENT_TYPE_LATEST)


@pytest.mark.parametrize("bounds", [REQUEST_BOUNDS, INFERENCE_BOUNDS])
def test_buckets_begin_at_microseconds_and_rise(bounds: tuple[float, ...]) -> None:
    assert bounds[0] <= 10e-6
    assert list(bounds) == sorted(set(bounds))


def test_a_duration_is_counted_in_every_bucket_that_holds_it() -> None:
    metrics = Metrics(["left", "right"])
    for seconds in (1e-6, 10e-6, 11e-6, 2.0):
        metrics.answered("/act", 200, seconds)
    text = metrics.exposition("m", "d").decode()
    counts = {
        sample.labels["le"]: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "upright_request_seconds_bucket"
    }
    assert (counts["1e-05"], counts["2e-05"], counts["1"], counts["+Inf"]) == (2, 3, 3, 4)


def test_a_status_that_is_not_listed_and_a_path_that_is_not_known_make_no_new_series() -> None:
    metrics = Metrics(["left", "right"])
    metrics.answered(door_of("/' OR 1=1"), 418, 0.1)
    metrics.answered(door_of("/v2/models/m/infer"), 200, 0.1)
    found = samples(metrics.exposition("m", "d").decode())
    assert found["upright_requests_total", ("other", "other")] == 1
    assert found["upright_requests_total", ("/v2", "200")] == 1


def test_a_scrape_of_any_process_is_the_sum_of_all_and_a_new_one_takes_over_the_row_of_a_dead_one(tmp_path: Path) -> None:
    # File locks are a process's own, so one process can stand for the first only: it takes row 0 again and again.
    file = tmp_path / "counts"
    file.touch()
    first, successor = Metrics(["left", "right"], file), Metrics(["left", "right"], file)
    first.answered("/act", 200, 1e-5)
    successor.answered("/act", 200, 1e-5)
    for metrics in (first, successor):
        assert samples(metrics.exposition("m", "d").decode())["upright_requests_total", ("/act", "200")] == 2
