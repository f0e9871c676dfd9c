"""What is counted, and that processes count together."""

import os
import platform
import socket
import time
from importlib.metadata import version
from pathlib import Path

import httpx2
import pytest
from prometheus_client import CONTENT_TYPE_LATEST
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient
from websockets.sync.client import connect

from models.bundle import Bundle
from service.endpoints import endpoint_of
from service.inference.loading import load
from service.observability.exposition import EXPOSITION_TYPE, exposition
from service.observability.metric_layout import INFERENCE_BOUNDS, REQUEST_BOUNDS, Layout
from service.observability.metrics import Metrics
from service.server.application import create_application
from service.state import ServiceState
from tests.support.metrics import ask_by_grpc, samples
from tests.support.service import Start, free_port, settings, wait_for

STATE = [0.0, 0.0, 0.05, 0.0]
BEGUN = time.time()
IN_FLIGHT = "upright_in_flight", ("http",)


def test_requests_inferences_and_actions_are_counted(client: TestClient) -> None:
    for _ in range(3):
        client.post("/act", json={"state": STATE})
    client.post("/act", content="nonsense")
    client.post("/act/batch", json={"states": [STATE, [0, 0, -0.05, 0]]})
    client.get("/nowhere/at/all")
    answer = client.get("/metrics")
    assert answer.headers["content-type"] == EXPOSITION_TYPE
    values = samples(answer.text)
    assert values["upright_requests_total", ("/act", "200")] == 3
    assert values["upright_requests_total", ("/act", "400")] == 1
    assert values["upright_requests_total", ("/act/batch", "200")] == 1
    assert values["upright_requests_total", ("other", "404")] == 1
    assert values["upright_request_seconds_count", ("/act",)] == 4
    assert values["upright_inference_seconds_count", ()] == 4
    assert (
        values["upright_actions_total", ("left",)],
        values["upright_actions_total", ("right",)],
    ) == (1, 4)
    requests = sum(
        values["upright_request_seconds_sum", (endpoint,)] for endpoint in ("/act", "/act/batch")
    )
    assert requests > values["upright_inference_seconds_sum", ()] > 0


def test_the_bundle_served_and_what_serves_it_are_labels(
    client: TestClient, backend: str, committed: Bundle
) -> None:
    values = {
        sample.name: sample.labels
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
        if sample.name.endswith("_info")
    }
    assert values["upright_bundle_info"] == {
        "model": "cartpole-dqn",
        "version": "1",
        "digest": committed.digest,
        "backend": backend,
    }
    versions = {
        "version": version("upright"),
        "python": platform.python_version(),
        "onnxruntime": version("onnxruntime"),
    }
    assert values["upright_build_info"] == versions


@pytest.mark.parametrize("path", ["/act", "/act/batch"])
def test_state_values_outside_the_training_range_are_counted_by_name(
    client: TestClient, path: str
) -> None:
    for state in ([0, 0, 0.05, 0], [100, 0, 0, 0], [-100, 0, 0, 100]):
        body = {"state": state} if path == "/act" else {"states": [state, STATE, state]}
        assert client.post(path, json=body).status_code == 200
    values = samples(client.get("/metrics").text)
    times = 1 if path == "/act" else 2
    assert values["upright_out_of_range_total", ("cart_position",)] == 2 * times
    assert values["upright_out_of_range_total", ("pole_angular_velocity",)] == times
    assert values["upright_out_of_range_total", ("pole_angle",)] == 0


def test_a_state_value_that_another_bundle_names_is_counted_too() -> None:
    metrics = Metrics(["left", "right"], ["x"])
    metrics.observe_inference(1e-5, [0], [["x", "newcomer"]])
    values = samples(metrics.exposition({}).decode())
    assert (
        values["upright_out_of_range_total", ("x",)],
        values["upright_out_of_range_total", ("other",)],
    ) == (1, 1)


def test_the_moment_of_the_start_is_told(client: TestClient) -> None:
    assert (
        BEGUN < samples(client.get("/metrics").text)["process_start_time_seconds", ()] < time.time()
    )


def test_the_start_is_told_by_a_clock_that_was_set_since_and_never_moves_otherwise(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "counts"
    file.touch()
    with monkeypatch.context() as board:
        board.setattr(time, "time", lambda: 10.0)  # no battery: it is 1970
        metrics = Metrics(["left", "right"], ["x"], file)
        assert start_of(metrics) == 10.0
    told = start_of(metrics)
    assert BEGUN < told < time.time()
    assert start_of(metrics) == told


def start_of(metrics: Metrics) -> float:
    return samples(metrics.exposition({}).decode())["process_start_time_seconds", ()]


def test_a_service_that_drains_says_that_it_is_not_ready(committed: Bundle) -> None:
    service_state = ServiceState(load(committed, "onnx"))
    with TestClient(create_application(settings(), service_state)) as client:
        ready = [samples(client.get("/metrics").text)["upright_ready", ()]]
        service_state.start_draining()
        ready.append(samples(client.get("/metrics").text)["upright_ready", ()])
    assert ready == [1, 0]


def test_grpc_calls_are_counted_as_an_endpoint_by_the_status_that_stands_for_theirs(
    start: Start,
) -> None:
    port = free_port()
    with start("--grpc-port", str(port)) as address:
        ask_by_grpc(port)
        for model, code in (("other", "NOT_FOUND"), ("", "NOT_FOUND")):
            with pytest.raises(Exception, match=code):
                ask_by_grpc(port, model=model)
        with pytest.raises(Exception, match="INVALID_ARGUMENT"):
            ask_by_grpc(port, datatype="BOOL")
        with pytest.raises(Exception, match="FAILED_PRECONDITION"):
            ask_by_grpc(port, headers={"if-match": '"sha256:another"'})
        values = samples(httpx2.get(f"{address}/metrics").text)
    counted = {
        status: values.get(("upright_requests_total", ("grpc", status)), 0)
        for status in ("200", "400", "404", "412", "500")
    }
    assert counted == {"200": 1, "400": 1, "404": 2, "412": 1, "500": 0}
    assert values["upright_request_seconds_count", ("grpc",)] == 5
    assert values["upright_actions_total", ("right",)] == 1


def test_the_content_type_is_the_librarys() -> None:
    assert EXPOSITION_TYPE in (CONTENT_TYPE_PLAIN_0_0_4, CONTENT_TYPE_LATEST)


@pytest.mark.parametrize("bounds", [REQUEST_BOUNDS, INFERENCE_BOUNDS])
def test_buckets_begin_at_microseconds_and_rise(bounds: tuple[float, ...]) -> None:
    assert bounds[0] <= 10e-6
    assert list(bounds) == sorted(set(bounds))


def test_a_duration_is_counted_in_every_bucket_that_holds_it() -> None:
    metrics = Metrics(["left", "right"], ["x"])
    for seconds in (1e-6, 10e-6, 11e-6, 2.0):
        metrics.observe_request("/act", 200, seconds)
    text = metrics.exposition({}).decode()
    counts = {
        sample.labels["le"]: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "upright_request_seconds_bucket"
    }
    assert (counts["1e-05"], counts["2e-05"], counts["1"], counts["+Inf"]) == (2, 3, 3, 4)


def test_a_status_that_is_not_listed_and_a_path_that_is_not_known_make_no_new_series() -> None:
    metrics = Metrics(["left", "right"], ["x"])
    metrics.observe_request(endpoint_of("/' OR 1=1").label, 418, 0.1)
    metrics.observe_request(endpoint_of("/v2/models/m/infer").label, 200, 0.1)
    values = samples(metrics.exposition({}).decode())
    assert values["upright_requests_total", ("other", "other")] == 1
    assert values["upright_requests_total", ("/v2", "200")] == 1


def test_a_scrape_of_any_process_is_the_sum_of_all_and_a_new_one_takes_over_the_row_of_a_dead_one(
    tmp_path: Path,
) -> None:
    # File locks are a process's own, so within one process each takes row 0 again.
    file = tmp_path / "counts"
    file.touch()
    first, successor = (
        Metrics(["left", "right"], ["x"], file),
        Metrics(["left", "right"], ["x"], file),
    )
    first.observe_request("/act", 200, 1e-5)
    successor.observe_request("/act", 200, 1e-5)
    for metrics in (first, successor):
        assert (
            samples(metrics.exposition({}).decode())["upright_requests_total", ("/act", "200")] == 2
        )


def test_what_is_open_and_under_way_is_told(start: Start) -> None:
    port = free_port()

    def told(client: httpx2.Client) -> tuple[float, ...]:
        values = samples(client.get("/metrics").text)
        kinds = ("http", "stream")
        return *(values["upright_connections", (kind,)] for kind in kinds), values[IN_FLIGHT]

    with start("--grpc-port", str(port)) as address, httpx2.Client(base_url=address) as client:
        assert told(client) == (1, 0, 0)
        host, http_port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(http_port))) as half_a_request:
            half_a_request.sendall(
                b"POST /act HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{"
            )
            wait_for(lambda: told(client) == (2, 0, 1), 5)
        wait_for(lambda: told(client) == (1, 0, 0), 5)
        with connect(f"{address.replace('http', 'ws')}/act/stream"):
            assert told(client) == (1, 1, 0)
        wait_for(lambda: told(client) == (1, 0, 0), 5)


def test_the_resources_of_all_processes_are_added_up() -> None:
    layout = Layout(["left", "right"], ["x"])
    row = [0.0] * layout.width
    row[layout.started], row[layout.pid] = 1.0, os.getpid()
    ended = [*row]
    ended[layout.pid] = 2**22 + 1  # no process can have this number

    def told(*rows: list[float]) -> dict[tuple[str, tuple[str, ...]], float]:
        return samples(exposition(layout, rows, {}, ready=True).decode())

    one, both = told(row), told(row, row, ended)
    for name in ("process_resident_memory_bytes", "process_max_fds"):
        assert 1.8 < both[name, ()] / one[name, ()] < 2.2
    assert both["process_cpu_seconds_total", ()] > one["process_cpu_seconds_total", ()] > 0
    assert "process_open_fds" in {name for name, _ in one}
