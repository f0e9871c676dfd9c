"""Spans of requests, as a collector gets them over OTLP."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from websockets.sync.client import connect

from models.bundle import Bundle
from tests.service.observability.test_metrics import STATE
from tests.support.metrics import ask_by_grpc
from tests.support.project import ROOT
from tests.support.service import Start, clean_environment, free_port, wait_for

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
FAILING = ("-m", "tests.support.failing_service")


class Collector(ThreadingHTTPServer):
    """Takes spans over OTLP/HTTP and keeps them."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Receiver)
        self.spans: list[Any] = []
        self.services: set[str] = set()

    @property
    def environment(self) -> dict[str, str]:
        """What tells the service of it: the standard variables."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.server_port}",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }


class Receiver(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        request = ExportTraceServiceRequest.FromString(
            self.rfile.read(int(self.headers["Content-Length"]))
        )
        assert self.path == "/v1/traces"
        for resource in request.resource_spans:
            self.server.services |= {
                value.value.string_value
                for value in resource.resource.attributes
                if value.key == "service.name"
            }
            self.server.spans += [span for scope in resource.scope_spans for span in scope.spans]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def attributes(span: Any) -> dict[str, object]:
    return {
        each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes
    }


def test_a_span_continues_the_callers_trace_and_says_what_was_answered(
    start: Start, collector: Collector, committed: Bundle
) -> None:
    with start("--tracing", environment=collector.environment) as address:
        headers = {"traceparent": TRACEPARENT, "tracestate": "vendor=1", "X-Request-ID": "mine"}
        assert (
            httpx2.post(f"{address}/act", json={"state": STATE}, headers=headers).status_code == 200
        )
        wait_for(lambda: len(collector.spans) == 1)
    (span,) = collector.spans
    assert (span.trace_id.hex(), span.parent_span_id.hex(), span.trace_state) == (
        TRACE,
        PARENT,
        "vendor=1",
    )
    assert (span.name, span.kind) == ("POST /act", span.SPAN_KIND_SERVER)
    found = attributes(span)
    assert (
        found.items()
        >= {
            "http.request.method": "POST",
            "http.route": "/act",
            "url.path": "/act",
            "url.scheme": "http",
        }.items()
    )
    assert (
        found.items()
        >= {
            "http.response.status_code": 200,
            "upright.digest": committed.digest,
            "upright.action": "right",
        }.items()
    )
    assert found["upright.request_id"] == "mine"
    assert 0 < span.end_time_unix_nano - span.start_time_unix_nano < 10e9
    assert collector.services == {"upright"}


def test_a_request_without_a_trace_begins_one_and_its_log_line_names_it(
    start: Start, collector: Collector, tmp_path: Path
) -> None:
    environment = collector.environment | {"OTEL_SERVICE_NAME": "pole"}
    with start(
        "--tracing",
        "--log-format",
        "json",
        "--log-requests",
        environment=environment,
    ) as address:
        httpx2.get(f"{address}/nowhere")
        wait_for(lambda: len(collector.spans) == 1)
    (span,) = collector.spans
    assert (span.name, span.parent_span_id) == ("GET", b"")
    (line,) = (
        line
        for line in map(json.loads, (tmp_path / "service.log").read_text().splitlines())
        if line["event"] == "request"
    )
    assert line["trace_id"] == span.trace_id.hex()
    assert collector.services == {"pole"}


def test_a_failure_is_an_error_in_its_trace(start: Start, collector: Collector) -> None:
    with start("--tracing", program=FAILING, environment=collector.environment) as address:
        assert (
            httpx2.post(
                f"{address}/act", json={"state": STATE}, headers={"traceparent": TRACEPARENT}
            ).status_code
            == 500
        )
        wait_for(lambda: len(collector.spans) == 1)
    (span,) = collector.spans
    assert span.status.code == span.status.STATUS_CODE_ERROR
    assert (
        attributes(span).items() >= {"http.response.status_code": 500, "error.type": "500"}.items()
    )


def test_messages_of_a_stream_and_grpc_calls_have_spans_too(
    start: Start, collector: Collector
) -> None:
    port = free_port()
    with start("--tracing", "--grpc-port", str(port), environment=collector.environment) as address:
        with connect(
            f"{address.replace('http', 'ws')}/act/stream",
            additional_headers={"traceparent": TRACEPARENT},
            proxy=None,
        ) as stream:
            for _ in range(2):
                stream.send(json.dumps({"state": STATE}))
                stream.recv()
        ask_by_grpc(port, headers={"traceparent": TRACEPARENT})
        wait_for(lambda: len(collector.spans) == 3)
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
    assert sorted(span.name for span in collector.spans) == [
        "GET /act/stream",
        "GET /act/stream",
        "inference.GRPCInferenceService/ModelInfer",
    ]
    call = next(span for span in collector.spans if span.name.startswith("inference"))
    assert (
        attributes(call).items()
        >= {
            "rpc.system.name": "grpc",
            "rpc.method": "inference.GRPCInferenceService/ModelInfer",
        }.items()
    )


def test_what_the_caller_does_not_sample_is_not_sent(start: Start, collector: Collector) -> None:
    with start("--tracing", environment=collector.environment) as address:
        httpx2.post(
            f"{address}/act",
            json={"state": STATE},
            headers={"traceparent": TRACEPARENT[:-2] + "00"},
        )
        httpx2.post(f"{address}/act", json={"state": STATE}, headers={"traceparent": TRACEPARENT})
        wait_for(lambda: len(collector.spans) > 0)
    assert len(collector.spans) == 1


def test_spans_that_still_wait_when_the_service_ends_are_sent(
    start: Start, collector: Collector
) -> None:
    with start(
        "--tracing",
        environment=collector.environment | {"OTEL_BSP_SCHEDULE_DELAY": "60000"},
    ) as address:
        httpx2.post(f"{address}/act", json={"state": STATE})
        assert collector.spans == []
    assert len(collector.spans) == 1


def test_a_collector_that_is_not_there_holds_up_no_answer_and_no_end(start: Start) -> None:
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}",
        "OTEL_BSP_SCHEDULE_DELAY": "50",
    }
    with start("--tracing", environment=environment) as address:
        for _ in range(20):
            assert httpx2.post(f"{address}/act", json={"state": STATE}).status_code == 200


WITHOUT_OPENTELEMETRY = """
import runpy, sys
for absent in ("opentelemetry.sdk", "opentelemetry.exporter", "opentelemetry.proto"):
    sys.modules[absent] = None  # importing it now raises ImportError
runpy.run_module("service", run_name="__main__", alter_sys=True)
"""


def test_tracing_without_its_extra_is_refused_in_one_line_and_nothing_else_needs_it(
    start: Start,
) -> None:
    command = [sys.executable, "-c", WITHOUT_OPENTELEMETRY, "--port", "0", "--tracing"]
    result = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=clean_environment(),
    )
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert "--tracing needs OpenTelemetry, which is not installed" in result.stderr
    with start(program=("-c", WITHOUT_OPENTELEMETRY)) as address:
        assert httpx2.post(f"{address}/act", json={"state": STATE}).status_code == 200
