"""A network as the content of an ONNX file and of a TorchScript archive."""

import io
import warnings
import zipfile

import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from training.network import DQNetwork

# The lowest that hold the network: Gemm as it is since opset 9, and initializers that are no inputs
# since IR version 4.
OPSET, IR_VERSION = 9, 4


def to_onnx(network: DQNetwork) -> bytes:
    """Return the network as one ONNX file, `state` (batch, 4) → `q_values` (batch, 2).

    The batch may have any size. The graph is written here: a Gemm for each layer, and a ReLU
    between two. torch's exporter needs seconds for it, and a newer opset.
    """
    nodes, initializers = [], []
    layers = network.linear_layers()
    value = "state"
    for index, layer in enumerate(layers):
        names = [f"layers.{index}.{part}" for part in ("weight", "bias")]
        initializers += [
            numpy_helper.from_array(parameter.detach().cpu().numpy(), name)
            for name, parameter in zip(names, (layer.weight, layer.bias), strict=True)
        ]
        is_last = index == len(layers) - 1
        output = "q_values" if is_last else f"sum.{index}"
        nodes.append(helper.make_node("Gemm", [value, *names], [output], transB=1))
        if not is_last:
            nodes.append(helper.make_node("Relu", [output], [f"hidden.{index}"]))
        value = f"hidden.{index}"

    graph = helper.make_graph(
        nodes,
        "policy",
        [helper.make_tensor_value_info("state", TensorProto.FLOAT, ["batch", network.states])],
        [helper.make_tensor_value_info("q_values", TensorProto.FLOAT, ["batch", network.actions])],
        initializers,
    )
    model = helper.make_model(
        graph,
        producer_name="upright",
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
    )
    helper.set_model_props(
        model,
        {
            "input": "state (batch, 4): cart position m, cart velocity m/s, pole angle rad,"
            " angular velocity rad/s",
            "output": "q_values (batch, 2): push left, push right",
        },
    )
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def to_torchscript(network: DQNetwork) -> bytes:
    """Return the network as a TorchScript archive.

    TorchScript is deprecated in torch; this is the one place that writes it. The archive is packed
    again without the files for debuggers, which hold this machine's paths, and without the hash
    that is made of them too: of one network each process writes the same bytes.
    """
    network = _for_export(network)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore",
            message=r"`torch\.jit\.(trace|trace_method|save)` is deprecated",
            category=DeprecationWarning,
        )
        traced = torch.jit.trace(  # type: ignore[no-untyped-call] # torch declares no types for it
            network, torch.zeros(2, network.states)
        )
        torch.jit.save(traced, buffer)

    packed = io.BytesIO()
    with (
        zipfile.ZipFile(buffer) as original,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive,
    ):
        for entry in original.infolist():
            if not entry.filename.endswith((".debug_pkl", "/.data/serialization_id")):
                archive.writestr(zipfile.ZipInfo(entry.filename), original.read(entry))
    return packed.getvalue()


def _for_export(network: DQNetwork) -> DQNetwork:
    copy = DQNetwork(network.hidden, network.states, network.actions)
    copy.load_state_dict(network.state_dict())
    return copy.eval().requires_grad_(False)
