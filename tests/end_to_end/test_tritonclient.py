"""The protocol's best known client, `tritonclient`, over HTTP and gRPC, asks the real service."""

import queue
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx2
import numpy as np
import pytest

from models.bundle import Bundle
from service.inference.loading import load
from tests.support.project import ROOT
from tests.support.service import Start, clean_environment, free_port, service, wait_for

with warnings.catch_warnings():
    warnings.simplefilter(
        "ignore"
    )  # what other people's modules warn of when they are imported is no claim of ours
    import grpc
    import tritonclient.grpc
    import tritonclient.http
    from grpc_health.v1 import health_pb2, health_pb2_grpc
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
    from tritonclient.grpc import service_pb2 as pb
    from tritonclient.utils import InferenceServerException

NAME = "cartpole-dqn"


@dataclass
class Protocol:
    """One of the two protocols: the module that calls it, and a client of it."""

    kind: str
    module: ModuleType
    client: Any

    def given(
        self,
        states: np.ndarray[Any, Any],
        *,
        name: str = "state",
        datatype: str = "FP32",
        **options: Any,
    ) -> list[Any]:
        tensor = self.module.InferInput(name, list(states.shape), datatype)
        tensor.set_data_from_numpy(states, **options)
        return [tensor]


@pytest.fixture(scope="module")
def ports() -> Iterator[tuple[int, int]]:
    http, grpc_port = free_port(), free_port()
    with service(http, "--grpc-port", str(grpc_port)):
        wait_for(lambda: httpx2.get(f"http://127.0.0.1:{http}/health/ready").status_code == 200)
        yield http, grpc_port


@pytest.fixture(params=["http", "grpc"])
def protocol(request: pytest.FixtureRequest, ports: tuple[int, int]) -> Iterator[Protocol]:
    module = tritonclient.http if request.param == "http" else tritonclient.grpc
    client = module.InferenceServerClient(f"127.0.0.1:{ports[request.param == 'grpc']}")
    yield Protocol(request.param, module, client)
    client.close()


def random_states(count: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(count).uniform(-0.2, 0.2, (count, 4)).astype(np.float32)


def test_it_is_live_and_ready(protocol: Protocol) -> None:
    assert protocol.client.is_server_live()
    assert protocol.client.is_server_ready()
    assert protocol.client.is_model_ready(NAME)
    assert protocol.client.is_model_ready(NAME, "1")


def test_another_model_is_not_ready(protocol: Protocol) -> None:
    if protocol.kind == "http":
        assert not protocol.client.is_model_ready("other")
    else:
        with pytest.raises(InferenceServerException, match="there is no model 'other'"):
            protocol.client.is_model_ready("other")


def test_metadata_and_configuration_describe_the_model(protocol: Protocol) -> None:
    options = {"as_json": True} if protocol.kind == "grpc" else {}
    assert protocol.client.get_server_metadata(**options)["name"] == "upright"
    metadata = protocol.client.get_model_metadata(NAME, **options)
    assert (metadata["name"], metadata["versions"], metadata["platform"]) == (
        NAME,
        ["1"],
        "onnx_onnxv1",
    )
    assert [
        [int(size) for size in tensor["shape"]]
        for tensor in metadata["inputs"] + metadata["outputs"]
    ] == [[-1, 4], [-1, 2], [-1]]
    config = protocol.client.get_model_config(NAME, **options)
    config = config.get("config", config)
    assert (config["name"], config["max_batch_size"], config["input"][0]["data_type"]) == (
        NAME,
        10_000,
        "TYPE_FP32",
    )


def test_the_repository_is_listed_and_a_load_of_what_is_served_succeeds(protocol: Protocol) -> None:
    options = {"as_json": True} if protocol.kind == "grpc" else {}
    index = protocol.client.get_model_repository_index(**options)
    models = index["models"] if protocol.kind == "grpc" else index
    assert [(model["name"], model["state"]) for model in models] == [(NAME, "READY")]
    protocol.client.load_model(NAME)
    with pytest.raises(InferenceServerException, match="cannot be unloaded"):
        protocol.client.unload_model(NAME)
    with pytest.raises(InferenceServerException, match="there is no model"):
        protocol.client.load_model("other")
    with pytest.raises(InferenceServerException, match="takes no parameters"):
        protocol.client.load_model(NAME, config="{}")


@pytest.mark.parametrize("count", [1, 7, 1_000])
def test_batches_are_answered_to_the_bit_as_the_policy_does(
    protocol: Protocol, committed: Bundle, count: int
) -> None:
    states = random_states(count)
    expected = load(committed, "onnx").decide(states)
    module = protocol.module
    forms: list[dict[str, Any]] = [
        {},
        {
            "outputs": [
                module.InferRequestedOutput("action"),
                module.InferRequestedOutput("q_values"),
            ]
        },
    ]
    inputs = [protocol.given(states)]
    if protocol.kind == "http":
        inputs.append(protocol.given(states, binary_data=False))
        forms.append(
            {
                "outputs": [
                    module.InferRequestedOutput(name, binary_data=False)
                    for name in ("q_values", "action")
                ]
            }
        )
        forms += [{"request_compression_algorithm": algorithm} for algorithm in ("gzip", "deflate")]
    for given in inputs:
        for form in forms:
            result = protocol.client.infer(NAME, given, request_id="a7", **form)
            np.testing.assert_array_equal(
                result.as_numpy("q_values"), np.array(expected.q_values, np.float32)
            )
            np.testing.assert_array_equal(result.as_numpy("action"), np.array(expected.actions))
            response = result.get_response()
            assert (response["id"] if protocol.kind == "http" else response.id) == "a7"


def test_one_output_may_be_asked_for(protocol: Protocol) -> None:
    result = protocol.client.infer(
        NAME,
        protocol.given(random_states(2)),
        outputs=[protocol.module.InferRequestedOutput("action")],
    )
    assert result.as_numpy("q_values") is None
    assert result.as_numpy("action").shape == (2,)


def test_inference_may_be_asynchronous(protocol: Protocol) -> None:
    states = random_states(3)
    expected = protocol.client.infer(NAME, protocol.given(states)).as_numpy("action")
    if protocol.kind == "http":
        found = (
            protocol.client.async_infer(NAME, protocol.given(states))
            .get_result()
            .as_numpy("action")
        )
    else:
        results: list[Any] = []
        protocol.client.async_infer(
            NAME, protocol.given(states), lambda result, error: results.append(error or result)
        )
        wait_for(lambda: bool(results))
        found = results[0].as_numpy("action")
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("states", "name", "datatype", "reason"),
    [
        (np.zeros((1, 3), np.float32), "state", "FP32", r"shape must be \[n, 4\]"),
        (np.zeros((4,), np.float32), "state", "FP32", r"shape must be \[n, 4\]"),
        (np.zeros((1, 4, 1), np.float32), "state", "FP32", r"shape must be \[n, 4\]"),
        (np.zeros((0, 4), np.float32), "state", "FP32", "n from 1"),
        (np.zeros((1, 4), np.uint8), "state", "UINT8", "datatype must be FP32, FP64"),
        (np.full((1, 4), 2**24 + 1), "state", "INT64", "element 0 is 16777217, which FP32 has not"),
        (np.full((1, 4), 1e39), "state", "FP64", "element 0 is not finite as a 32-bit float"),
        (np.zeros((1, 4), np.float32), "observation", "FP32", "expected one input, 'state'"),
        (np.full((1, 4), np.nan, np.float32), "state", "FP32", "not finite"),
        (np.full((1, 4), 3e38, np.float32), "state", "FP32", "no finite Q-values"),
        (np.zeros((10_001, 4), np.float32), "state", "FP32", "at most 10000"),
    ],
)
def test_what_is_wrong_is_readable_in_the_clients_exception(
    protocol: Protocol, states: np.ndarray[Any, Any], name: str, datatype: str, reason: str
) -> None:
    with pytest.raises(InferenceServerException, match=reason) as raised:
        protocol.client.infer(NAME, protocol.given(states, name=name, datatype=datatype))
    assert raised.value.status() in ("400", "StatusCode.INVALID_ARGUMENT")


def test_an_unknown_model_version_or_output_is_readable_too(protocol: Protocol) -> None:
    given = protocol.given(random_states(1))
    with pytest.raises(InferenceServerException, match="there is no model 'other'"):
        protocol.client.infer("other", given)
    with pytest.raises(InferenceServerException, match="there is no version '9'"):
        protocol.client.infer(NAME, given, model_version="9")
    with pytest.raises(InferenceServerException, match="there is no output 'value'"):
        protocol.client.infer(NAME, given, outputs=[protocol.module.InferRequestedOutput("value")])


@pytest.fixture
def stream(ports: tuple[int, int]) -> Iterator[tuple[Any, "queue.Queue[tuple[Any, Any]]"]]:
    """A client with an open stream, and what comes on it: results, and errors."""
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client = tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{ports[1]}")
    client.start_stream(lambda result, error: answers.put((result, error)))
    yield client, answers
    client.stop_stream()
    client.close()


def test_a_stream_answers_each_request_in_turn(
    stream: tuple[Any, "queue.Queue[tuple[Any, Any]]"], committed: Bundle
) -> None:
    client, answers = stream
    protocol = Protocol("grpc", tritonclient.grpc, client)
    states = random_states(200)
    expected = load(committed, "onnx").decide(states)
    for index, state in enumerate(states):
        client.async_stream_infer(NAME, protocol.given(state[None]), request_id=str(index))
    for index, (action, q_values) in enumerate(
        zip(expected.actions, expected.q_values, strict=True)
    ):
        result, error = answers.get(timeout=10)
        assert error is None
        assert result.get_response().id == str(index)
        assert result.get_response().parameters["digest"].string_param == committed.digest
        assert result.as_numpy("action") == [action]
        np.testing.assert_array_equal(result.as_numpy("q_values"), np.array([q_values], np.float32))


def test_an_error_on_a_stream_names_its_request_and_does_not_end_it(
    stream: tuple[Any, "queue.Queue[tuple[Any, Any]]"],
) -> None:
    client, answers = stream
    given = Protocol("grpc", tritonclient.grpc, client).given(random_states(1))
    client.async_stream_infer("other", given, request_id="first")
    client.async_stream_infer(NAME, given, request_id="second", enable_empty_final_response=True)
    _, error = answers.get(timeout=10)
    assert "there is no model 'other'" in str(error)
    result, error = answers.get(timeout=10)
    assert error is None
    assert result.get_response().id == "second"
    assert result.get_response().parameters["triton_final_response"].bool_param


def test_an_error_on_a_stream_has_the_id_of_its_request(ports: tuple[int, int]) -> None:
    asked = pb.ModelInferRequest(model_name="other", id="seven").SerializeToString()
    with grpc.insecure_channel(f"127.0.0.1:{ports[1]}") as channel:
        method = channel.stream_stream(
            "/inference.GRPCInferenceService/ModelStreamInfer",
            response_deserializer=pb.ModelStreamInferResponse.FromString,
        )
        first, second = method(iter([asked, b"\xff" * 100]), timeout=10)
    assert first.infer_response.id == "seven"
    assert first.error_message == "there is no model 'other'; 'cartpole-dqn' is served"
    assert second.infer_response.id == ""
    assert second.error_message == "the request is no ModelInferRequest"


def test_a_stream_is_held_to_its_rate(start: Start) -> None:
    port = free_port()
    with start("--grpc-port", str(port), "--stream-rate", "5"):
        asked = pb.ModelInferRequest(model_name="other").SerializeToString()
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            method = channel.stream_stream(
                "/inference.GRPCInferenceService/ModelStreamInfer",
                response_deserializer=pb.ModelStreamInferResponse.FromString,
            )
            answers = method(iter([asked] * 20), timeout=10, wait_for_ready=True)
            told = [answer.error_message for answer in answers]
    refused = [text for text in told if "a stream may ask 5 times a second" in text]
    assert 10 <= len(refused) <= 15  # of two seconds at most
    assert len(told) == 20


def test_the_statistics_are_alike_by_both_protocols(protocol: Protocol) -> None:
    protocol.client.infer(NAME, protocol.given(random_states(3)))
    options = {"as_json": True} if protocol.kind == "grpc" else {}
    for arguments in ((), (NAME,), (NAME, "1")):
        [statistics] = protocol.client.get_inference_statistics(*arguments, **options)[
            "model_stats"
        ]
        assert (statistics["name"], statistics["version"]) == (NAME, "1")
        executions = int(statistics["execution_count"])
        assert int(statistics["inference_count"]) >= executions + 2 >= 3
        assert int(statistics["inference_stats"]["success"]["count"]) == executions
        assert int(statistics["inference_stats"]["success"]["ns"]) > 0
    with pytest.raises(InferenceServerException, match="there is no model 'other'"):
        protocol.client.get_inference_statistics("other")


@pytest.mark.parametrize(
    ("method", "arguments", "http_name", "grpc_name"),
    [
        ("get_trace_settings", (), "/v2/trace/setting", "TraceSetting"),
        ("update_trace_settings", (), "/v2/trace/setting", "TraceSetting"),
        ("get_log_settings", (), "/v2/logging", "LogSettings"),
        ("update_log_settings", ({"log_info": True},), "/v2/logging", "LogSettings"),
        (
            "get_system_shared_memory_status",
            (),
            "/v2/systemsharedmemory/status",
            "SystemSharedMemoryStatus",
        ),
        (
            "register_system_shared_memory",
            ("a", "b", 1),
            "/v2/systemsharedmemory/region/a/register",
            "SystemSharedMemoryRegister",
        ),
        (
            "unregister_system_shared_memory",
            (),
            "/v2/systemsharedmemory/unregister",
            "SystemSharedMemoryUnregister",
        ),
        (
            "get_cuda_shared_memory_status",
            (),
            "/v2/cudasharedmemory/status",
            "CudaSharedMemoryStatus",
        ),
        (
            "register_cuda_shared_memory",
            ("a", b"bbbb", 0, 1),
            "/v2/cudasharedmemory/region/a/register",
            "CudaSharedMemoryRegister",
        ),
        (
            "unregister_cuda_shared_memory",
            (),
            "/v2/cudasharedmemory/unregister",
            "CudaSharedMemoryUnregister",
        ),
    ],
)
def test_what_is_not_offered_is_refused_by_name(
    protocol: Protocol, method: str, arguments: tuple[Any, ...], http_name: str, grpc_name: str
) -> None:
    with pytest.raises(InferenceServerException) as raised:
        getattr(protocol.client, method)(*arguments)
    expected = (
        f"there is no {http_name}"
        if protocol.kind == "http"
        else f"{grpc_name} is not offered here"
    )
    assert raised.value.message() == expected


def test_grpc_honours_deadlines_and_digests(ports: tuple[int, int], committed: Bundle) -> None:
    client = tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{ports[1]}")
    given = Protocol("grpc", tritonclient.grpc, client).given(random_states(10_000))
    with pytest.raises(InferenceServerException, match="DEADLINE_EXCEEDED"):
        client.infer(NAME, given, client_timeout=-1)  # it has passed as the call begins
    assert client.infer(
        NAME, given, client_timeout=10, headers={"if-match": f'"{committed.digest}"'}
    ).as_numpy("action").shape == (10_000,)
    with pytest.raises(InferenceServerException, match="no action was chosen") as raised:
        client.infer(NAME, given, headers={"if-match": '"sha256:other"'})
    assert raised.value.status() == "StatusCode.FAILED_PRECONDITION"
    client.close()


def test_grpc_answers_health_and_reflection_and_refuses_what_is_too_large(
    ports: tuple[int, int],
) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{ports[1]}") as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", "inference.GRPCInferenceService"):
            assert (
                health.Check(health_pb2.HealthCheckRequest(service=name)).status
                == health_pb2.HealthCheckResponse.SERVING
            )
        listed = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
            iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        )
        assert "inference.GRPCInferenceService" in {
            item.name for item in next(listed).list_services_response.service
        }
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        for body, code in (
            (b"\xff" * 100, grpc.StatusCode.INVALID_ARGUMENT),
            (b"\0" * 4_000_000, grpc.StatusCode.RESOURCE_EXHAUSTED),
        ):
            with pytest.raises(grpc.RpcError) as raised:
                infer(body)
            assert raised.value.code() == code


def test_a_grpc_port_without_grpc_is_refused_in_one_line() -> None:
    program = (
        "import sys; sys.modules['grpc'] = None; from service.__main__ import main;"
        "sys.exit(main(['--port', '0', '--grpc-port', '0']))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=clean_environment(),
    )
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert "--grpc-port needs grpc, which is not installed" in result.stderr


def test_the_generated_messages_are_those_of_the_proto(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "grpc_tools.protoc",
        "-I.",
        f"--python_out={tmp_path}",
        f"--pyi_out={tmp_path}",
        f"--grpc_python_out={tmp_path}",
        "service/grpc/inference.proto",
    ]
    subprocess.run(command, cwd=ROOT, check=True)
    for name in ("inference_pb2.py", "inference_pb2.pyi", "inference_pb2_grpc.py"):
        assert (tmp_path / "service" / "grpc" / name).read_text() == (
            ROOT / "service" / "grpc" / name
        ).read_text(), "run `make proto`"


def test_the_service_ends_in_time_with_a_grpc_client_connected(start: Start) -> None:
    port = free_port()
    with start("--grpc-port", str(port)):
        client = tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{port}")
        wait_for(lambda: _live(client))
    client.close()


def _live(client: Any) -> bool:
    try:
        return bool(client.is_server_live())
    except InferenceServerException:
        return False


@pytest.mark.parametrize(
    ("datatype", "numpy_type"),
    [("FP64", np.float64), ("FP16", np.float16), ("INT32", np.int32), ("INT64", np.int64)],
)
def test_other_numbers_are_cast_and_answered_as_floats_are(
    protocol: Protocol, datatype: str, numpy_type: type
) -> None:
    states = np.array([[0, 0, 1, 0], [1, -1, 0, 2]])
    expected = protocol.client.infer(NAME, protocol.given(states.astype(np.float32)))
    result = protocol.client.infer(
        NAME, protocol.given(states.astype(numpy_type), datatype=datatype)
    )
    assert (result.as_numpy("q_values") == expected.as_numpy("q_values")).all()


def test_classes_are_refused_by_name(protocol: Protocol) -> None:
    output = protocol.module.InferRequestedOutput("q_values", class_count=2)
    with pytest.raises(InferenceServerException, match="classification"):
        protocol.client.infer(NAME, protocol.given(random_states(1)), outputs=[output])


def test_shared_memory_is_refused_by_name(protocol: Protocol) -> None:
    tensor = protocol.module.InferInput("state", [1, 4], "FP32")
    tensor.set_shared_memory("region", 16)
    with pytest.raises(InferenceServerException, match="input 'state': shared memory"):
        protocol.client.infer(NAME, [tensor])

    output = protocol.module.InferRequestedOutput("action")
    output.set_shared_memory("region", 8)
    with pytest.raises(InferenceServerException, match="output 'action': shared memory"):
        protocol.client.infer(NAME, protocol.given(random_states(1)), outputs=[output])
