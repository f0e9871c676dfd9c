"""Formats: a network to ONNX and TorchScript and back to a function states → Q-values. Knows nothing of bundles."""

import io
import logging
import warnings
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray

from training.evaluation.episodes import QFunction
from training.network import DQNetwork

OPSET = 20


class ExportError(Exception):
    """Raised when a file is not the policy that it should be; nothing is written then."""


def to_onnx(network: DQNetwork) -> bytes:
    """Return the network as one ONNX file: `state` (batch, 4) → `q_values` (batch, 2), the batch of any size.

    Stack traces and the exporter's notes are left out: they hold paths, and make the bytes differ between machines.
    """
    network = _for_export(network)
    registry = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registry.level
    registry.setLevel(
        logging.ERROR
    )  # it warns that torchvision is absent, which this network does not need
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore",
                message=r"`isinstance\(treespec, LeafSpec\)` is deprecated",
                category=FutureWarning,
            )
            program = torch.onnx.export(
                network,
                (torch.zeros(2, network.states),),
                dynamo=True,
                input_names=["state"],
                output_names=["q_values"],
                dynamic_shapes=({0: "batch"},),
                opset_version=OPSET,
                external_data=False,
                verbose=False,
            )
    finally:
        registry.setLevel(level)
    assert program is not None
    model = onnx.ModelProto.FromString(program.model_proto.SerializeToString())
    _strip(model)
    onnx.checker.check_model(model, full_check=True)
    _check_interface(model)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def to_torchscript(network: DQNetwork) -> bytes:
    """Return the network as a TorchScript archive.

    TorchScript is deprecated in torch; this is the one place that writes it. The archive is packed again without the files for
    debuggers, which hold this machine's paths.
    """
    network = _for_export(network)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore",
            message=r"`torch\.jit\.(trace|trace_method|save)` is deprecated",
            category=DeprecationWarning,
        )
        traced = torch.jit.trace(network, torch.zeros(2, network.states))  # type: ignore[no-untyped-call] # no types in torch
        torch.jit.save(traced, buffer)
    packed = io.BytesIO()
    with (
        zipfile.ZipFile(buffer) as original,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive,
    ):
        for entry in original.infolist():
            if not entry.filename.endswith(".debug_pkl"):
                archive.writestr(zipfile.ZipInfo(entry.filename), original.read(entry))
    return packed.getvalue()


def from_network(network: DQNetwork) -> QFunction:
    """Return the network as a function of states, (n, 4)."""

    def q_values(states: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.no_grad():
            result: NDArray[np.float32] = network(torch.from_numpy(states)).numpy()
        return result

    return q_values


def from_onnx(model: Path | bytes) -> QFunction:
    """Return an ONNX model, a file or its content, as a function of states, (n, 4). Raises `ExportError` where it is none."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    # A model may name files that hold its weights; a bundle's never does, and no other file's hash was checked.
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", "/nonexistent"
    )
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises classes of its own, with no common base, for a file that it cannot load
        raise ExportError(
            f"onnxruntime cannot load the ONNX file: {' '.join(str(error).split())[:300]}"
        ) from error
    names = [value.name for value in (*session.get_inputs(), *session.get_outputs())]
    if names != ["state", "q_values"]:
        raise ExportError(
            f"the ONNX file takes and gives {', '.join(names)}; expected state and q_values"
        )

    def q_values(states: NDArray[np.float32]) -> NDArray[np.float32]:
        result: NDArray[np.float32] = session.run(["q_values"], {"state": states})[0]
        return result

    return q_values


def from_torchscript(content: bytes) -> QFunction:
    """Return a TorchScript archive as a function of states, (n, 4)."""
    with warnings.catch_warnings():
        # The archive is kept for those who ask for it, though torch has deprecated the format.
        warnings.filterwarnings(
            "ignore", message=r"`torch\.jit\.load` is deprecated", category=DeprecationWarning
        )
        module = torch.jit.load(io.BytesIO(content), map_location="cpu")  # type: ignore[no-untyped-call] # torch declares none
    module.eval()

    def q_values(states: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.no_grad():
            result: NDArray[np.float32] = module(torch.from_numpy(states)).numpy()
        return result

    return q_values


def _for_export(network: DQNetwork) -> DQNetwork:
    copy = DQNetwork(network.hidden, network.states, network.actions)
    copy.load_state_dict(network.state_dict())
    return copy.eval().requires_grad_(False)


def _strip(model: onnx.ModelProto) -> None:
    graph = model.graph
    for part in (
        model,
        graph,
        *graph.node,
        *graph.input,
        *graph.output,
        *graph.initializer,
        *graph.value_info,
    ):
        del part.metadata_props[:]
        part.doc_string = ""
    model.producer_name, model.producer_version = "upright", ""
    model.metadata_props.add(
        key="input",
        value="state (batch, 4): cart position m, cart velocity m/s, pole angle rad, angular velocity rad/s",
    )
    model.metadata_props.add(key="output", value="q_values (batch, 2): push left, push right")


def _check_interface(model: onnx.ModelProto) -> None:
    """Check that what was asked of the exporter is what it did: it keeps to some of its arguments only in part."""
    opsets = [entry.version for entry in model.opset_import if entry.domain == ""]
    if opsets != [OPSET]:
        raise ExportError(f"policy.onnx: opset {OPSET} was asked for, the exporter wrote {opsets}")
    for values, name in ((model.graph.input, "state"), (model.graph.output, "q_values")):
        if [value.name for value in values] != [name]:
            raise ExportError(
                f"policy.onnx: expected the one name {name!r}, found {[value.name for value in values]}"
            )
        if not values[0].type.tensor_type.shape.dim[0].dim_param:
            raise ExportError(f"policy.onnx: the batch axis of {name!r} is fixed")
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer):
        raise ExportError("policy.onnx: weights lie outside the file")
