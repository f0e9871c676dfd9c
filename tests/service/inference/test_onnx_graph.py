"""What an ONNX file may hold is looked at before a runtime sees it."""

import shutil
import signal
import time
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from models import bundle
from models.bundle import Bundle
from service.inference import admission
from service.inference.errors import NotAdmittedError
from service.inference.onnx_graph import GraphError, check_graph
from service.inference.protobuf import WireError
from tests.end_to_end.test_drain import running
from tests.support.service import free_port, wait_for

INPUT = helper.make_tensor_value_info("state", TensorProto.FLOAT, ["batch", 4])
OUTPUT = helper.make_tensor_value_info("q_values", TensorProto.FLOAT, ["batch", 2])


def weights() -> onnx.TensorProto:
    return numpy_helper.from_array(np.ones((4, 2), np.float32), "weights")


def model(*nodes: onnx.NodeProto, **options: object) -> bytes:
    graph = helper.make_graph([*nodes], "graph", [INPUT], [OUTPUT], [weights()])
    content: bytes = helper.make_model(graph, **options).SerializeToString()
    return content


def gemm(**options: Any) -> onnx.NodeProto:
    return helper.make_node("Gemm", ["state", "weights"], ["q_values"], **options)


def endless_loop() -> bytes:
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Identity", ["value"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("value", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
        ],
    )
    count = helper.make_node(
        "Constant", [], ["count"], value=numpy_helper.from_array(np.array(2**62, np.int64))
    )
    loop = helper.make_node("Loop", ["count", "", "state"], ["looped"], body=body)
    return model(count, loop, helper.make_node("Gemm", ["looped", "weights"], ["q_values"]))


def function_named_gemm() -> bytes:
    function = helper.make_function(
        "", "Gemm", ["a", "b"], ["c"], [helper.make_node("Add", ["a", "b"], ["c"])],
        [helper.make_opsetid("", 9)],
    )  # fmt: skip
    return model(gemm(), functions=[function])


def with_external_weights(location: str) -> bytes:
    tensor = weights()
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    graph = helper.make_graph([gemm()], "graph", [INPUT], [OUTPUT], [tensor])
    content: bytes = helper.make_model(graph).SerializeToString()
    return content


def with_sparse_weights() -> bytes:
    values = numpy_helper.from_array(np.ones(1, np.float32), "weights")
    indices = numpy_helper.from_array(np.zeros(1, np.int64), "places")
    sparse = helper.make_sparse_tensor(values, indices, [4, 2])
    graph = helper.make_graph([gemm()], "graph", [INPUT], [OUTPUT], sparse_initializer=[sparse])
    content: bytes = helper.make_model(graph).SerializeToString()
    return content


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (endless_loop(), "has the operator 'Constant'"),
        (model(helper.make_node("Exp", ["state"], ["q_values"])), "has the operator 'Exp'"),
        (model(gemm(domain="evil")), "of the domain 'evil'"),
        (function_named_gemm(), "functions of its own"),
        (with_external_weights("/etc/hostname"), "weights in another file"),
        (with_external_weights("*/_ORT_MEM_ADDR_/*"), "weights in another file"),
        (with_sparse_weights(), "sparse weights"),
        (model(gemm(inner=helper.make_graph([gemm()], "g", [], []))), "a graph within"),
        (model(*[gemm()] * 300), "has 300 operators"),
    ],
)
def test_a_graph_with_more_than_a_policy_has_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(GraphError, match=reason):
        check_graph(content)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        model(),
        b"\x00\x01\x02",
        b"\x3a\xff\xff\xff\xff\x0f",  # longer than the file
        b"\x3b\x0a\x01\x00",  # a group, which would hide what follows
        b"\x3a" + b"\x80" * 20,  # a number that does not end
    ],
)
def test_bytes_that_are_no_model_are_told_from_one(content: bytes) -> None:
    with pytest.raises(WireError):
        check_graph(content)


def test_the_committed_policy_is_made_of_what_is_allowed(committed: Bundle) -> None:
    check_graph(committed.artifacts["onnx"])


def test_a_bundle_whose_graph_never_ends_is_not_admitted(tmp_path: Path, committed: Bundle) -> None:
    content = endless_loop()
    manifest = committed.manifest.model_copy(
        update={"artifacts": {"onnx": bundle.describe("policy.onnx", content)}, "extra_files": ()}
    )
    bundle.write(tmp_path / "endless", manifest, {"policy.onnx": content})
    with pytest.raises(NotAdmittedError, match="operator 'Constant'; a policy has Gemm and Relu"):
        admission.admit(tmp_path / "endless", "onnx", 0)


# The service, but for an admission that never ends after the first. No artifact that is let through
# to a runtime can do that, as far as anybody knows.
WITH_ENDLESS_ADMISSION = """
import sys, threading
from service.__main__ import main
from service.inference import admission

examine, calls = admission.examine, []


def examine_once(*arguments):
    calls.append(arguments)
    return examine(*arguments) if len(calls) == 1 else threading.Event().wait()


admission.examine = examine_once
sys.exit(main(sys.argv[1:]))
"""


def test_a_stop_does_not_wait_for_a_candidate_that_is_never_admitted(
    tmp_path: Path, committed: Bundle
) -> None:
    served = shutil.copytree(committed.folder, tmp_path / "bundle")
    manifest = served / "manifest.json"
    port, log = free_port(), tmp_path / "log"
    arguments = ("--bundle", str(served), "--drain", "0")
    program = ("-c", WITH_ENDLESS_ADMISSION)
    with running(port, log, *arguments, program=program) as process:
        manifest.write_text(manifest.read_text().replace('"version": "1"', '"version": "2"', 1))
        process.send_signal(signal.SIGHUP)
        time.sleep(1)
        answer = httpx2.post(f"http://127.0.0.1:{port}/act", json={"state": [0, 0, 0.05, 0]})
        assert answer.json()["digest"] == committed.digest  # the one before answers on
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
    wait_for(lambda: "a reload does not end" in log.read_text())
