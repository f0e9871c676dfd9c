"""Refused calls leave nothing in memory, and a small message cannot become a large one."""

import gzip
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.project import ROOT
from tests.support.service import clean_environment, free_port, reachable, wait_for

with warnings.catch_warnings():
    # What other people's modules warn of when they are imported is no claim of ours.
    warnings.simplefilter("ignore")
    import grpc
    from tritonclient.grpc import service_pb2 as pb  # two modules cannot define one message

MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"
MODEL_STREAM_INFER = "/inference.GRPCInferenceService/ModelStreamInfer"
MANY_INPUTS = b"\x2a\x00" * 1_000_000  # a million empty messages in `inputs`
MANY_PARAMETERS = pb.ModelInferRequest(model_name="cartpole-dqn").SerializeToString() + (
    b"\x22\x00" * 900_000
)
GIGABYTE = zlib.compress(bytes(200_000_000), 9)
REFUSED = {
    "many inputs": (MANY_INPUTS, grpc.StatusCode.RESOURCE_EXHAUSTED),
    "many inputs, compressed": (gzip.compress(MANY_INPUTS), grpc.StatusCode.RESOURCE_EXHAUSTED),
    "many parameters": (MANY_PARAMETERS, grpc.StatusCode.RESOURCE_EXHAUSTED),
    "a message that inflates to 200 MB": (GIGABYTE, grpc.StatusCode.RESOURCE_EXHAUSTED),
    "malformed": (b"\xff" * 100_000, grpc.StatusCode.INVALID_ARGUMENT),
    "malformed, compressed": (b"\x1f\x8b" + bytes(1_000), grpc.StatusCode.INVALID_ARGUMENT),
    "another model": (
        pb.ModelInferRequest(model_name="x" * 100_000).SerializeToString(),
        grpc.StatusCode.NOT_FOUND,
    ),
}
CALLS = 300  # a round
LARGE_CALLS = 50  # a round, of those that are read as megabytes
MOST_ROUNDS = 10
KEPT_LIMIT = 5_000_000  # bytes


@pytest.fixture(params=[False, True], ids=["open", "keys"])
def service(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[int, int, bool]]:
    """Start the service without garbage collection; gives pid, gRPC port and if keys are on."""
    port = free_port()
    keys = tmp_path / "keys.toml"
    keys.write_text("")
    program = (
        "import gc, sys; gc.disable(); gc.enable = lambda: None;"
        "from service.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, "--port", "0", "--drain", "0"]
    command += ["--grpc-port", str(port), *(["--keys", str(keys)] if request.param else [])]
    with subprocess.Popen(
        command, cwd=ROOT, env=clean_environment(), stderr=subprocess.DEVNULL
    ) as process:
        try:
            wait_for(lambda: reachable(port))
            yield process.pid, port, request.param
        finally:
            process.terminate()


def refuse(port: int, body: bytes, calls: int) -> grpc.StatusCode:
    """Send a request again and again; return the code of the last answer."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary(MODEL_INFER)
        for _ in range(calls):
            with pytest.raises(grpc.RpcError) as refusal:
                call(body)
        code: grpc.StatusCode = refusal.value.code()
        return code


def resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4_096


def least_growth(pid: int, one_round: Callable[[], None]) -> int:
    """Return the bytes by which a process grew in the first of the rounds that left little.

    What calls leave behind makes it grow in each round. The libraries' own buffers do so in some:
    in the first, and in others on a machine that is busy.
    """
    growths = []
    for _ in range(MOST_ROUNDS):
        before = resident_bytes(pid)
        one_round()
        growths.append(resident_bytes(pid) - before)
        if growths[-1] < KEPT_LIMIT:
            break
    return min(growths)


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_calls_leave_nothing_in_memory(service: tuple[int, int, bool], kind: str) -> None:
    pid, port, asks_for_keys = service
    body, code = REFUSED[kind]
    calls = LARGE_CALLS if kind.startswith("many") else CALLS
    expected = grpc.StatusCode.UNAUTHENTICATED if asks_for_keys else code

    def one_round() -> None:
        assert refuse(port, body, calls) is expected

    one_round()
    assert least_growth(pid, one_round) < KEPT_LIMIT


@pytest.mark.parametrize("service", [False], indirect=True, ids=["open"])
@pytest.mark.parametrize("kind", REFUSED)
def test_refused_messages_of_a_stream_leave_nothing_in_memory(
    service: tuple[int, int, bool], kind: str
) -> None:
    pid, port, _ = service
    body, _ = REFUSED[kind]
    messages = LARGE_CALLS if kind.startswith("many") else CALLS
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.stream_stream(
            MODEL_STREAM_INFER, response_deserializer=pb.ModelStreamInferResponse.FromString
        )

        def one_round() -> None:
            answers = list(call(iter([body] * messages), timeout=60))
            assert len(answers) == messages
            assert all(answer.error_message for answer in answers)

        one_round()
        assert least_growth(pid, one_round) < KEPT_LIMIT


@pytest.mark.parametrize("service", [False], indirect=True, ids=["open"])
@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_a_compressed_call_is_answered(
    service: tuple[int, int, bool], compression: grpc.Compression
) -> None:
    _, port, _ = service
    request = pb.ModelInferRequest(
        model_name="cartpole-dqn",
        inputs=[pb.ModelInferRequest.InferInputTensor(name="state", datatype="FP32", shape=[2, 4])],
        raw_input_contents=[bytes(32)],
    )
    with grpc.insecure_channel(f"127.0.0.1:{port}", compression=compression) as channel:
        answer = channel.unary_unary(
            MODEL_INFER,
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelInferResponse.FromString,
        )(request, timeout=5)
    assert answer.outputs[0].shape == [2, 2]
