"""A request that is known is answered byte for byte as one that is parsed anew."""

import shutil
import struct
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from onnx import numpy_helper

from models import bundle
from tests.support.project import COMMITTED
from tests.support.service import Start, free_port, reachable, service, wait_for

with warnings.catch_warnings():
    # What other people's modules warn of when they are imported is no claim of ours.
    warnings.simplefilter("ignore")
    import grpc
    from tritonclient.grpc import service_pb2 as pb  # two modules cannot define one message

METHOD = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
Infer = Callable[..., tuple[bytes, str]]


def infer_by(channel: grpc.Channel, body: bytes, *, anew: bool = False) -> tuple[bytes, str]:
    """Return an answer's bytes, or why there is none; `anew` has it parsed whatever is known."""
    metadata = (("if-match", f'"{DIGEST}"'),) if anew else ()
    try:
        return channel.unary_unary(METHOD)(body, metadata=metadata, timeout=10), ""
    except grpc.RpcError as error:
        return b"", f"{error.code()} {error.details()}"


def stream_by(channel: grpc.Channel, bodies: list[bytes]) -> list[bytes]:
    return list(channel.stream_stream(STREAM)(iter(bodies), timeout=10))


@pytest.fixture(scope="module")
def channel() -> Iterator[grpc.Channel]:
    http, port = free_port(), free_port()
    with service(http, "--grpc-port", str(port), "--drain", "0"):
        wait_for(lambda: reachable(port))
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel


@pytest.fixture(scope="module")
def infer(channel: grpc.Channel) -> Infer:
    return partial(infer_by, channel)


DIGEST = bundle.read(COMMITTED).digest
MOST = 64  # as in service.grpc.known_requests, whose messages cannot be imported here, too
STATE = (0.01, -0.02, 0.03, 0.04)


def asked(
    state: tuple[float, ...] = STATE,
    *,
    others: tuple[tuple[float, ...], ...] = (),
    datatype: str = "FP32",
    shape: tuple[int, ...] = (),
    outputs: tuple[str, ...] = (),
    **fields: Any,
) -> Any:
    request = pb.ModelInferRequest(model_name=fields.pop("model_name", "cartpole-dqn"), **fields)
    states = (state, *others)
    request.inputs.add(name="state", datatype=datatype, shape=shape or (len(states), 4))
    for output in outputs:
        request.outputs.add(name=output)
    request.raw_input_contents.append(packed(*states))
    return request


def packed(*states: tuple[float, ...]) -> bytes:
    return b"".join(struct.pack("<4f", *state) for state in states)


VALUES = st.floats(-0.25, 0.25, width=32)
IDS = st.one_of(
    st.just(""),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=140),
    st.text(max_size=20),
)
STATES = st.tuples(VALUES, VALUES, VALUES, VALUES)
REQUESTS = st.builds(
    asked,
    STATES,
    others=st.sampled_from([0, 0, 1, 7, 70]).flatmap(
        lambda count: st.lists(STATES, min_size=count, max_size=count).map(tuple)
    ),
    id=IDS,
    model_version=st.sampled_from(["", "1", "2"]),
    outputs=st.sampled_from([(), ("action",), ("action", "q_values"), ("q_values",), ("none",)]),
    datatype=st.sampled_from(["FP32", "FP32", "FP32", "INT32", "FP16"]),
    shape=st.sampled_from([(), (), (), (2, 4), (4,)]),
    model_name=st.sampled_from(["cartpole-dqn", "cartpole-dqn", "other"]),
)


@given(first=REQUESTS, state=STATES, request_id=IDS)
@example(first=asked(), state=STATE, request_id="\x1a\x01x")
def test_what_is_known_is_answered_as_what_is_not(
    infer: Infer, first: Any, state: tuple[float, ...], request_id: str
) -> None:
    body = first.SerializeToString()
    expected = infer(body, anew=True)
    assert infer(body) == expected
    assert infer(body) == expected  # by now it is known, if it is of the form

    other = type(first)()
    other.CopyFrom(first)
    other.id = request_id
    other.raw_input_contents[0] = packed(state) + other.raw_input_contents[0][:-16]
    body = other.SerializeToString()
    assert infer(body) == infer(body, anew=True)


def test_numbers_in_the_field_of_another_type_are_told_of(infer: Infer) -> None:
    request = asked(datatype="FP64")
    del request.raw_input_contents[:]
    request.inputs[0].contents.fp32_contents.extend(STATE)
    told = infer(request.SerializeToString())[1]
    assert "input 'state': FP64 stands in fp64_contents, not in fp32_contents" in told


PLAIN = asked(id="first").SerializeToString()
PAIR = asked(others=(STATE,)).SerializeToString()
ID = b"\x1a\x05first"
RAW = PLAIN[-18:]


@pytest.mark.parametrize(
    "body",
    [
        PLAIN.replace(ID, ID + b"\x1a\x06second"),  # of two ids the last one counts
        PLAIN.replace(ID, b"") + ID,
        PLAIN.replace(ID, b"\x1a\x02\xff\xfe"),  # is no text
        PLAIN.replace(ID, b"\x1a\x85\x00first"),  # a length in two bytes
        PLAIN + RAW,  # two contents
        RAW + PLAIN[:-18],
        PLAIN + b"\x08\x01",  # an unknown field behind the state
        PLAIN + b"\xa3\x06\xa4\x06",  # a group, which the parser skips
        b"\xa3\x06\xa4\x06" + PLAIN,
        PLAIN[:-1],
        PLAIN[:-16],
        PLAIN[:-18],
        PLAIN[-16:],
        b"",
        PLAIN[:-16] + struct.pack("<4f", 0, float("nan"), 0, 0),
        PAIR[:-16] + struct.pack("<4f", 0, float("nan"), 0, 0),
        PAIR[:-16] + struct.pack("<4f", 3e38, 3e38, 3e38, 3e38),
        PAIR[:-16],
        PAIR + packed(STATE),
        asked(others=(STATE, STATE), shape=(2, 4)).SerializeToString(),
        PLAIN[:-16] + struct.pack("<4f", 0, float("inf"), 0, 0),
        PLAIN[:-16] + struct.pack("<4f", 3e38, 3e38, 3e38, 3e38),
        asked(id="x" * 127).SerializeToString(),
        asked(id="x" * 128).SerializeToString(),
        asked(model_name="cartpole-dqn", id="x" * 900).SerializeToString(),
    ],
)
def test_what_is_nearly_known_is_answered_as_what_is_not(infer: Infer, body: bytes) -> None:
    assert infer(PLAIN)[0]
    assert infer(PAIR)[0]
    for _ in range(3):
        assert infer(body) == infer(body, anew=True)
    for known in (PLAIN, PAIR):
        assert infer(known) == infer(known, anew=True)


def test_a_state_out_of_range_is_refused_where_a_known_request_asks_for_that(infer: Infer) -> None:
    def strict(state: tuple[float, ...]) -> bytes:
        request = asked(state)
        request.parameters["strict"].bool_param = True
        body: bytes = request.SerializeToString()
        return body

    for _ in range(3):
        assert infer(strict(STATE)) == infer(asked(STATE).SerializeToString())
        assert infer(asked((0, 0, 3, 0)).SerializeToString())[1] == ""
        content, error = infer(strict((0, 0, 3, 0)))
        assert content == b""
        assert "StatusCode.OUT_OF_RANGE state 0: pole_angle is 3 rad" in error
    wrong = asked(STATE)
    wrong.parameters["strict"].string_param = "true"
    assert "INVALID_ARGUMENT parameter strict" in infer(wrong.SerializeToString())[1]


def test_a_service_that_refuses_what_is_out_of_range_does_so_by_grpc_and_in_its_streams() -> None:
    http, port = free_port(), free_port()
    flags = ("--grpc-port", str(port), "--drain", "0", "--refuse-out-of-range")
    with service(http, *flags):
        wait_for(lambda: reachable(port))
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            inside, outside = (
                asked(state, id="i").SerializeToString() for state in (STATE, (0, 0, 3, 0))
            )
            for _ in range(3):
                assert infer_by(channel, inside)[1] == ""
                assert "OUT_OF_RANGE" in infer_by(channel, outside)[1]
            answers = map(
                pb.ModelStreamInferResponse.FromString,
                stream_by(channel, [inside, outside, inside]),
            )
            assert ["pole_angle" in answer.error_message for answer in answers] == [
                False,
                True,
                False,
            ]


def test_a_stream_answers_what_is_known_as_a_call_does(channel: grpc.Channel, infer: Infer) -> None:
    bodies = [
        asked((0.01 * number, 0, 0, 0), others=others, id=f"n{number}").SerializeToString()
        for number in range(10)
        for others in ((), (STATE,), (STATE,) * 2_000)
    ]
    for _ in range(2):
        for body, content in zip(bodies, stream_by(channel, bodies), strict=True):
            answer = pb.ModelStreamInferResponse.FromString(content)
            assert answer.infer_response.SerializeToString() == infer(body)[0]
            assert answer.error_message == ""
    final = asked(id="x")
    final.parameters["triton_enable_empty_final_response"].bool_param = True
    body = final.SerializeToString()
    for content in stream_by(channel, [body] * 3):
        response = pb.ModelStreamInferResponse.FromString(content).infer_response
        assert response.parameters["triton_final_response"].bool_param
    assert b"triton_final_response" not in infer(body)[0]


def test_more_forms_than_are_kept_in_mind_are_answered_too(infer: Infer) -> None:
    bodies = []
    for number in range(3 * MOST):
        request = asked(id="x")
        request.parameters[f"p{number}"].int64_param = number
        bodies.append(request.SerializeToString())
    for _ in range(2):
        for body in bodies:
            assert infer(body)[0] == infer(bodies[0])[0]


def test_what_is_known_of_one_bundle_is_not_told_of_the_next(start: Start, tmp_path: Path) -> None:
    served = shutil.copytree(COMMITTED, tmp_path / "served")
    port = free_port()
    with (
        start("--grpc-port", str(port), "--bundle", str(served), "--watch", "0.1"),
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        call = partial(channel.unary_unary(METHOD), timeout=10, wait_for_ready=True)
        before = [pb.ModelInferResponse.FromString(call(PLAIN)) for _ in range(3)]
        manifest = served / "manifest.json"
        manifest.write_text(manifest.read_text().replace('"version": "1"', '"version": "2"', 1))
        wait_for(lambda: pb.ModelInferResponse.FromString(call(PLAIN)).model_version == "2")
        after = pb.ModelInferResponse.FromString(call(PLAIN))
    assert {answer.model_version for answer in before} == {"1"}
    assert after.parameters["digest"] != before[0].parameters["digest"]
    assert after.raw_output_contents == before[0].raw_output_contents


def with_three_actions(folder: Path) -> Path:
    """Write a relative of the committed bundle that can also do nothing."""
    committed = bundle.read(COMMITTED)
    model = onnx.load_model_from_string(committed.artifacts["onnx"])
    for tensor in model.graph.initializer[-2:]:  # weight and bias of the last layer
        rows = numpy_helper.to_array(tensor)
        rows = np.concatenate([rows, rows.mean(axis=0, keepdims=True)])
        tensor.CopyFrom(numpy_helper.from_array(rows, tensor.name))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 3
    content = model.SerializeToString()

    manifest = committed.manifest
    golden_states = [
        golden.model_copy(update={"q_values": (*golden.q_values, sum(golden.q_values) / 2)})
        for golden in manifest.golden_states
    ]
    changed = manifest.model_copy(
        update={
            "actions": ("left", "right", "nothing"),
            "network": manifest.network.model_copy(update={"outputs": 3}),
            "golden_states": tuple(golden_states),
            "artifacts": {"onnx": bundle.describe("policy.onnx", content)},
            "extra_files": (),
        }
    )
    bundle.write(folder, changed, {"policy.onnx": content})
    return folder


def test_a_policy_of_three_actions_is_answered_again_and_again(
    start: Start, tmp_path: Path
) -> None:
    port = free_port()
    folder = with_three_actions(tmp_path / "three")
    with (
        start("--grpc-port", str(port), "--bundle", str(folder)),
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        call = partial(channel.unary_unary(METHOD), timeout=10, wait_for_ready=True)
        answers = [pb.ModelInferResponse.FromString(call(PLAIN)) for _ in range(3)]
    assert [list(answer.outputs[0].shape) for answer in answers] == [[1, 3]] * 3
    assert len({answer.SerializeToString() for answer in answers}) == 1
