"""A network as the content of an ONNX file and of a TorchScript archive."""

import io
import logging
import warnings
import zipfile

import onnx
import torch

from training.evaluation.runtimes import PolicyFileError
from training.network import DQNetwork

OPSET = 20


def to_onnx(network: DQNetwork) -> bytes:
    """Return the network as one ONNX file, `state` (batch, 4) → `q_values` (batch, 2).

    The batch may have any size.

    Stack traces and the exporter's notes are left out: they hold paths, and make the bytes differ
    between machines. Raises `PolicyFileError` where torch's exporter did not do what it was asked.
    """
    network = _for_export(network)
    # It warns that torchvision is absent, which this network does not need.
    registry = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registry.level
    registry.setLevel(logging.ERROR)
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

    TorchScript is deprecated in torch; this is the one place that writes it. The archive is packed
    again without the files for debuggers, which hold this machine's paths.
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
            if not entry.filename.endswith(".debug_pkl"):
                archive.writestr(zipfile.ZipInfo(entry.filename), original.read(entry))
    return packed.getvalue()


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
        value="state (batch, 4): cart position m, cart velocity m/s, pole angle rad,"
        " angular velocity rad/s",
    )
    model.metadata_props.add(key="output", value="q_values (batch, 2): push left, push right")


def _check_interface(model: onnx.ModelProto) -> None:
    """Check that the exporter did what it was asked: it keeps to some arguments only in part."""
    opsets = [entry.version for entry in model.opset_import if entry.domain == ""]
    if opsets != [OPSET]:
        raise PolicyFileError(
            f"policy.onnx: opset {OPSET} was asked for, the exporter wrote {opsets}"
        )

    for values, name in ((model.graph.input, "state"), (model.graph.output, "q_values")):
        names = [value.name for value in values]
        if names != [name]:
            raise PolicyFileError(f"policy.onnx: expected the one name {name!r}, found {names}")
        if not values[0].type.tensor_type.shape.dim[0].dim_param:
            raise PolicyFileError(f"policy.onnx: the batch axis of {name!r} is fixed")

    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer):
        raise PolicyFileError("policy.onnx: weights lie outside the file")
