"""How a server is asked for the Q-values of states: the requests of a protocol, and its answers."""

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from service.grpc import inference_pb2 as pb

States = list[list[float]]  # four values each
QValues = list[list[float]]

HEADER_LENGTH = "Inference-Header-Content-Length"
GRPC_PATH = "/inference.GRPCInferenceService/ModelInfer"


@dataclass(frozen=True)
class Request:
    """A POST: its path, its body, and its headers."""

    path: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Protocol:
    """A way to ask. `q_values` gets an answer's body and, in small letters, its headers."""

    title: str
    request: Callable[[States], Request]
    q_values: Callable[[bytes, dict[str, str]], QValues]
    rows: tuple[int, ...] = (1, 8)  # how many states are asked for at a time
    is_grpc: bool = False


def plain_json(
    path: str,
    batch_path: str,
    *,
    document: Callable[[States], Any] | None = None,
    answer: str = "q_values",
) -> Protocol:
    """Return the way to ask by a JSON document of the server's own.

    It is `{"state": […]}` for one state and `{"states": [[…], …]}` for more, unless `document` says
    otherwise; `answer` is the field of the answer that has the Q-values.
    """

    def request(states: States) -> Request:
        is_batch = len(states) > 1
        own = {"states": states} if is_batch else {"state": states[0]}
        content = json.dumps(document(states) if document else own).encode()
        headers = {"Content-Type": "application/json"}
        return Request(batch_path if is_batch else path, content, headers)

    def q_values(body: bytes, _: dict[str, str]) -> QValues:
        found = json.loads(body)[answer]
        return found if isinstance(found[0], list) else [found]

    return Protocol("JSON of each one's own", request, q_values)


def inference_json(model: str) -> Protocol:
    """Return the Open Inference Protocol over REST, with tensors as JSON."""

    def request(states: States) -> Request:
        tensor = _tensor(states) | {"data": [value for state in states for value in state]}
        content = json.dumps({"inputs": [tensor], "outputs": [{"name": "q_values"}]}).encode()
        return Request(f"/v2/models/{model}/infer", content, {"Content-Type": "application/json"})

    def q_values(body: bytes, _: dict[str, str]) -> QValues:
        return _pairs(json.loads(body)["outputs"][0]["data"])

    return Protocol("Open Inference Protocol, JSON", request, q_values)


def inference_binary(model: str) -> Protocol:
    """Return the Open Inference Protocol over REST, with tensors as bytes behind the JSON."""

    def request(states: States) -> Request:
        raw = _raw(states)
        tensor = _tensor(states) | {"parameters": {"binary_data_size": len(raw)}}
        output = {"name": "q_values", "parameters": {"binary_data": True}}
        head = json.dumps({"inputs": [tensor], "outputs": [output]}).encode()
        headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(head))}
        return Request(f"/v2/models/{model}/infer", head + raw, headers)

    def q_values(body: bytes, headers: dict[str, str]) -> QValues:
        return _unpacked(body[int(headers[HEADER_LENGTH.lower()]) :])

    return Protocol("Open Inference Protocol, binary", request, q_values, rows=(1, 8, 1_000))


def inference_grpc(model: str) -> Protocol:
    """Return the Open Inference Protocol over gRPC, with the tensor as bytes."""

    def request(states: States) -> Request:
        message = pb.ModelInferRequest(model_name=model)
        message.inputs.add(name="state", datatype="FP32", shape=[len(states), 4])
        message.outputs.add(name="q_values")
        message.raw_input_contents.append(_raw(states))
        headers = {"content-type": "application/grpc", "te": "trailers"}
        return Request(GRPC_PATH, framed(message), headers)

    def q_values(body: bytes, _: dict[str, str]) -> QValues:
        response = pb.ModelInferResponse.FromString(body)
        if response.raw_output_contents:
            return _unpacked(response.raw_output_contents[0])
        return _pairs(list(response.outputs[0].contents.fp32_contents))

    return Protocol("Open Inference Protocol, gRPC", request, q_values, is_grpc=True)


def framed(message: pb.ModelInferRequest) -> bytes:
    """Return a message as gRPC frames it: not compressed, its length, its bytes."""
    body: bytes = message.SerializeToString()
    return b"\0" + struct.pack(">I", len(body)) + body


def _tensor(states: States) -> dict[str, Any]:
    return {"name": "state", "shape": [len(states), 4], "datatype": "FP32"}


def _raw(states: States) -> bytes:
    return b"".join(struct.pack("<4f", *state) for state in states)


def _unpacked(raw: bytes) -> QValues:
    return [list(pair) for pair in struct.iter_unpack("<2f", raw)]


def _pairs(flat: list[float]) -> QValues:
    return [list(pair) for pair in zip(flat[::2], flat[1::2], strict=True)]
