"""A policy as a function from states to Q-values, by torch, onnxruntime or TorchScript."""

import io
import warnings
from pathlib import Path

import onnxruntime
import torch

from training.network import DQNetwork
from training.types import Float32Array, QFunction


class PolicyFileError(Exception):
    """Raised when a file is not the policy that it should be."""


def from_network(network: DQNetwork) -> QFunction:
    """Return the network as a function of states, (n, 4)."""

    def q_values(states: Float32Array) -> Float32Array:
        with torch.no_grad():
            result: Float32Array = network(torch.from_numpy(states)).numpy()
        return result

    return q_values


def from_onnx(
    model: Path | bytes, input_name: str = "state", output_name: str = "q_values"
) -> QFunction:
    """Return an ONNX model, a file or its content, as a function of states, (n, 4).

    Raises `PolicyFileError` where it is none.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    # A model may name files that hold its weights; a bundle's never does, and the hash of no other
    # file was checked.
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", "/nonexistent"
    )

    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own classes for this have no common base
        raise PolicyFileError(
            f"onnxruntime cannot load the ONNX file: {' '.join(str(error).split())[:300]}"
        ) from error

    names = [value.name for value in (*session.get_inputs(), *session.get_outputs())]
    if names != [input_name, output_name]:
        raise PolicyFileError(
            f"the inputs and outputs of the ONNX file are {', '.join(names)};"
            f" expected {input_name} and {output_name}"
        )

    def q_values(states: Float32Array) -> Float32Array:
        result: Float32Array = session.run([output_name], {input_name: states})[0]
        return result

    return q_values


def from_torchscript(content: bytes) -> QFunction:
    """Return a TorchScript archive as a function of states, (n, 4)."""
    with warnings.catch_warnings():
        # The archive is kept for those who ask for it, though torch has deprecated the format.
        warnings.filterwarnings(
            "ignore", message=r"`torch\.jit\.load` is deprecated", category=DeprecationWarning
        )
        module = torch.jit.load(  # type: ignore[no-untyped-call] # torch declares no types for it
            io.BytesIO(content), map_location="cpu"
        )
    module.eval()

    def q_values(states: Float32Array) -> Float32Array:
        with torch.no_grad():
            result: Float32Array = module(torch.from_numpy(states)).numpy()
        return result

    return q_values
