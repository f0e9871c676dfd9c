"""Whatever a variable of the environment holds, the service runs or says in one line why not."""

import time
from pathlib import Path

import httpx2
import pytest

from service.settings import Settings, variable
from tests.support.forked_starts import Outcome, starts
from tests.support.service import Start, refused

HOSTILE = [
    *("", " ", "null", "None", "[]", "{}", "[1", "true", "-1", "0", "1e400", "nan", "inf"),
    *("9" * 5_000, "0x10", "1,2", "https://example.com", "../../nowhere", "x" * 5_000),
    *("a\nb\x1b[31m", "\udcff\udcfe", "%s {0} $(id)"),
]
OPEN_TELEMETRY = [
    *("OTEL_BSP_SCHEDULE_DELAY", "OTEL_BSP_EXPORT_TIMEOUT", "OTEL_BSP_MAX_QUEUE_SIZE"),
    *("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "OTEL_EXPORTER_OTLP_ENDPOINT"),
    *("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TIMEOUT", "OTEL_EXPORTER_OTLP_COMPRESSION"),
    *("OTEL_EXPORTER_OTLP_CERTIFICATE", "OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES"),
    *("OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG", "OTEL_ATTRIBUTE_COUNT_LIMIT"),
    *("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "OTEL_SDK_DISABLED"),
]
LINK = "tcp://10.96.0.12:8000"


def check(environment: dict[str, str], outcome: Outcome) -> None:
    __tracebackhide__ = True
    context = f"{ {name: value[:40] for name, value in environment.items()} }: {outcome}"
    assert "Traceback" not in outcome.output, context
    if outcome.code is not None:
        # 1 where a right value names something that cannot be used, such as a file.
        assert outcome.code in (1, 2), context
        assert outcome.output.count("\n") == 1, context
    assert "\x1b" not in outcome.output, context


def test_any_value_of_a_setting_runs_or_is_refused_in_one_line(tmp_path: Path) -> None:
    environments = [{variable(name): value} for name in Settings.model_fields for value in HOSTILE]
    for environment, outcome in zip(environments, starts(environments, tmp_path), strict=True):
        check(environment, outcome)


def test_any_value_that_open_telemetry_reads_runs_or_is_refused_in_one_line(
    tmp_path: Path,
) -> None:
    environments = [{name: value} for name in OPEN_TELEMETRY for value in HOSTILE]
    outcomes = starts(environments, tmp_path, "--tracing")
    for environment, outcome in zip(environments, outcomes, strict=True):
        assert "Traceback" not in outcome.output, (environment, outcome)
        if outcome.code is not None:
            assert outcome.code == 2, (environment, outcome)
            assert outcome.output.splitlines()[-1].startswith("upright: --tracing: ")


def test_what_an_orchestrator_sets_for_a_service_of_our_name_is_left_out_and_told(
    start: Start, tmp_path: Path
) -> None:
    environment = {
        "UPRIGHT_PORT": LINK,
        "UPRIGHT_GRPC_PORT": "tcp://[fd00::12]:8001",
        "UPRIGHT_SERVICE_HOST": "10.96.0.12",
        "UPRIGHT_SERVICE_PORT": "8000",
        "UPRIGHT_SERVICE_PORT_HTTP": "8000",
        "UPRIGHT_PORT_8000_TCP": LINK,
        "UPRIGHT_PORT_8000_TCP_PROTO": "tcp",
        "UPRIGHT_PORT_8000_TCP_PORT": "8000",
        "UPRIGHT_PORT_8000_TCP_ADDR": "10.96.0.12",
        "UPRIGHT_METRICS_PORT": "udp://10.96.0.13:9100",
    }
    with start(environment=environment):
        log = (tmp_path / "service.log").read_text()
    messages = [line for line in log.splitlines() if "left out" in line]
    assert [line.split()[1] for line in messages] == ["UPRIGHT_PORT", "UPRIGHT_GRPC_PORT"]


def test_a_misspelt_variable_is_told_as_a_misspelt_flag_is() -> None:
    assert refused(environment={"UPRIGHT_BAKEND": "onnx"}) == (
        2,
        "upright: UPRIGHT_BAKEND is no setting; did you mean UPRIGHT_BACKEND?\n",
    )
    assert refused(environment={"UPRIGT_PORT": "8000"}) == (
        2,
        "upright: UPRIGT_PORT is no setting; did you mean UPRIGHT_PORT?\n",
    )
    assert refused("--bakend", "onnx") == (
        2,
        "upright: --bakend is no flag; did you mean --backend?\n",
    )


@pytest.mark.parametrize("name", ["REDIS_PORT", "UPSTREAM_PORT", "UP_PORT", "UPRIGT_OTHER", "PORT"])
def test_variables_of_others_are_let_be(start: Start, name: str) -> None:
    with start(environment={name: "x"}) as address:
        assert address


@pytest.mark.parametrize("value", ["https://a.example", "https://a.example, http://b.example:81"])
def test_a_list_is_text_with_commas(start: Start, value: str) -> None:
    with start(environment={"UPRIGHT_CORS_ORIGIN": value}) as address:
        assert address


@pytest.mark.parametrize(
    "environment",
    [
        {"OTEL_EXPORTER_OTLP_CERTIFICATE": "/nowhere/ca.pem"},
        {"OTEL_EXPORTER_OTLP_CLIENT_KEY": "/nowhere/key.pem"},
        {"OTEL_EXPORTER_OTLP_HEADERS": "a=b%0d%0ac: d"},
        {"OTEL_EXPORTER_OTLP_TIMEOUT": "-5"},
    ],
)
def test_spans_that_cannot_be_sent_leave_no_traceback_in_the_log(
    start: Start, tmp_path: Path, environment: dict[str, str]
) -> None:
    sending = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "https://127.0.0.1:9",
        "OTEL_BSP_SCHEDULE_DELAY": "20",
    }
    with start("--tracing", environment=sending | environment) as address:
        httpx2.post(f"{address}/act", json={"state": [0, 0, 0.05, 0]})
        time.sleep(0.2)  # until a batch was sent, or was not
    log = (tmp_path / "service.log").read_text()
    assert "opentelemetry" in log.lower() or "export" in log.lower()
    assert "Traceback" not in log
