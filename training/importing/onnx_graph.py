"""Reads the layers of an ONNX graph: a chain of Gemm, or MatMul and Add, with Relu between."""

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from models.text import printable
from training.evaluation.runtimes import PolicyFileError, from_onnx
from training.importing.layers import STATE_SIZE, DenseLayer, check_size
from training.types import Float32Array, QFunction

DOMAINS = ("", "ai.onnx")
NODES_LIMIT = 200
RECURRENT = ("LSTM", "GRU", "RNN", "Loop", "Scan")
IMAGE = ("Conv", "ConvTranspose", "MaxPool", "AveragePool", "GlobalAveragePool")
LAYERS = "Gemm, or MatMul and Add, with Relu between"


@dataclass(frozen=True)
class OnnxPolicy:
    """What was read of an ONNX file."""

    layers: list[DenseLayer]
    producer: str  # the program that wrote it, with its version; may be empty
    q_values: QFunction  # the file itself, as onnxruntime runs it


def read_onnx(content: bytes) -> OnnxPolicy:
    """Read a file that maps states, (n, 4), to Q-values, (n, 2), under whatever names.

    Raises `PolicyFileError`, which names what no policy has.
    """
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # of protobuf, whose class depends on its implementation
        raise PolicyFileError(
            "is no policy file: neither an ONNX file, nor an archive of Stable-Baselines3, nor a"
            " state dict of torch"
        ) from error
    if not model.graph.node:
        raise PolicyFileError("is no ONNX file of a policy: there is no operator in it")

    constants = _constants(model)
    inputs = [each for each in model.graph.input if each.name not in constants]
    outputs = list(model.graph.output)
    if (len(inputs), len(outputs)) != (1, 1):
        raise PolicyFileError(
            f"has {len(inputs)} inputs and {len(outputs)} outputs; a policy has one of each"
        )
    batch = _check_input(inputs[0])
    chain = _Chain(inputs[0].name, constants)
    for node in model.graph.node:
        chain.add(node)

    q_values = from_onnx(content, inputs[0].name, outputs[0].name)
    producer = f"{model.producer_name} {model.producer_version}".strip()
    return OnnxPolicy(
        chain.layers(outputs[0].name),
        printable(producer[:100]),
        q_values if batch is None else _in_batches(q_values, batch),
    )


def _constants(model: ModelProto) -> dict[str, Float32Array]:
    """Return the weights by name, after a look at what the model may hold at all."""
    graph = model.graph
    if model.functions or model.training_info:
        raise PolicyFileError("has functions of its own; a policy has none")
    if graph.sparse_initializer:
        raise PolicyFileError("has sparse weights; a policy has none")
    if len(graph.node) > NODES_LIMIT:
        raise PolicyFileError(f"has {len(graph.node)} operators; a policy may have {NODES_LIMIT}")
    return {tensor.name: _array(tensor) for tensor in graph.initializer}


def _array(tensor: TensorProto) -> Float32Array:
    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        raise PolicyFileError(
            f"keeps {tensor.name!r} in another file; export it with its weights inside"
        )
    check_size(tensor.name, tensor.dims)
    try:
        array: Float32Array = numpy_helper.to_array(tensor)
    except Exception as error:  # whatever onnx raises for a damaged tensor
        raise PolicyFileError(f"has {tensor.name!r}, which cannot be read ({error})") from error
    return array


def _check_input(value: onnx.ValueInfoProto) -> int | None:
    """Check the type of the states; return how many the graph takes at once, where that is fixed.

    Raises `PolicyFileError`.
    """
    tensor = value.type.tensor_type
    if tensor.elem_type != TensorProto.FLOAT:
        kind = TensorProto.DataType.Name(tensor.elem_type)
        raise PolicyFileError(f"its input {value.name!r} is {kind}; states are FLOAT")

    dimensions = tensor.shape.dim
    sizes = [each.dim_value or each.dim_param or "?" for each in dimensions]
    if len(sizes) != 2 or (dimensions[1].HasField("dim_value") and sizes[1] != STATE_SIZE):
        shape = ", ".join(map(str, sizes))
        raise PolicyFileError(
            f"its input {value.name!r} has the shape ({shape}); states have (n, {STATE_SIZE})"
        )
    return dimensions[0].dim_value or None


class _Chain:
    """The layers that the operators make, one after the other."""

    def __init__(self, state: str, constants: dict[str, Float32Array]) -> None:
        self._value = state  # name of what the next operator must take
        self._constants = constants
        self._layers: list[DenseLayer] = []
        self._is_open = True  # whether a layer may come: at the start, and after a Relu
        self._may_add = False  # whether the last layer is a MatMul that has no bias yet

    def add(self, node: NodeProto) -> None:
        """Read the next operator. Raises `PolicyFileError`."""
        if node.domain not in DOMAINS:
            raise PolicyFileError(f"has an operator of the domain {node.domain[:100]!r}")
        if not node.output or (not node.input and node.op_type != "Constant"):
            raise PolicyFileError(f"has {_title(node)} without an input or an output")

        match node.op_type:
            case "Constant":
                self._add_constant(node)
            case "Identity" | "Transpose" if node.input[0] in self._constants:
                constant = self._constants[node.input[0]]
                is_turned = node.op_type == "Transpose"
                self._constants[node.output[0]] = constant.T if is_turned else constant
            case "Identity" | "Cast" | "Flatten":
                self._check_passes(node)
                self._take(node)
            case "Gemm":
                self._add_gemm(node)
            case "MatMul":
                self._add_layer(node, self._constant(node, 1).T, None)
                self._may_add = True
            case "Add":
                self._add_bias(node)
            case "Relu":
                if self._is_open:
                    raise PolicyFileError(f"has Relu without a layer before it; {LAYERS}")
                self._take(node)
                self._is_open, self._may_add = True, False
            case _:
                raise _unknown(node)

    def layers(self, output: str) -> list[DenseLayer]:
        """Return all layers. Raises `PolicyFileError` where they do not end in the Q-values."""
        if self._layers and self._is_open:
            raise PolicyFileError("ends with Relu; Q-values may be negative")
        if output != self._value:
            raise PolicyFileError(f"its output {output!r} is not what the last layer gives")
        return self._layers

    def _take(self, node: NodeProto, position: int = 0) -> None:
        """Go on with what an operator gives."""
        if len(node.input) <= position or node.input[position] != self._value:
            raise PolicyFileError(
                f"has {_title(node)}, which does not take what is before it: a policy is a chain of"
                f" {LAYERS}"
            )
        self._value = node.output[0]

    def _add_gemm(self, node: NodeProto) -> None:
        attributes = _attributes(node)
        if attributes.get("alpha", 1.0) != 1.0 or attributes.get("beta", 1.0) != 1.0:
            raise PolicyFileError(f"has {_title(node)} with factors (alpha, beta)")
        if attributes.get("transA", 0):
            raise PolicyFileError(f"has {_title(node)}, which transposes the states")
        weight = self._constant(node, 1)
        bias = self._constant(node, 2).reshape(-1) if len(node.input) > 2 else None
        self._add_layer(node, weight if attributes.get("transB", 0) else weight.T, bias)

    def _add_layer(self, node: NodeProto, weight: Float32Array, bias: Float32Array | None) -> None:
        if not self._is_open:
            raise PolicyFileError(f"has {_title(node)} without Relu before it; {LAYERS}")
        if weight.ndim != 2 or weight.dtype != np.float32:
            raise PolicyFileError(
                f"has {_title(node)} with weights of shape {weight.shape} and type {weight.dtype};"
                " expected two dimensions of float32"
            )
        self._take(node)
        self._layers.append(
            DenseLayer(
                printable(node.input[1][:100]),
                np.ascontiguousarray(weight),
                np.zeros(len(weight), np.float32) if bias is None else bias.astype(np.float32),
            )
        )
        self._is_open = self._may_add = False

    def _add_bias(self, node: NodeProto) -> None:
        position = 0 if node.input[0] == self._value else 1
        bias = self._constant(node, 1 - position)
        if not self._may_add or bias.size != len(self._layers[-1].bias):
            raise PolicyFileError(f"has {_title(node)}, which adds no bias to a MatMul; {LAYERS}")
        self._take(node, position)
        last = self._layers.pop()
        bias = bias.reshape(-1).astype(np.float32)
        self._layers.append(DenseLayer(last.name, last.weight, bias))
        self._may_add = False

    def _constant(self, node: NodeProto, position: int) -> Float32Array:
        name = node.input[position] if len(node.input) > position else ""
        if name not in self._constants:
            raise PolicyFileError(
                f"has {_title(node)} without weights that stay the same: a policy is a chain of"
                f" {LAYERS}"
            )
        return self._constants[name]

    def _add_constant(self, node: NodeProto) -> None:
        for attribute in node.attribute:
            if attribute.name == "value":
                self._constants[node.output[0]] = _array(attribute.t)

    def _check_passes(self, node: NodeProto) -> None:
        """Check that an operator changes nothing of states that are 32-bit numbers in rows."""
        attributes = _attributes(node)
        if node.op_type == "Cast" and attributes.get("to") != TensorProto.FLOAT:
            raise PolicyFileError(f"has {_title(node)}, to other numbers than FLOAT")
        if node.op_type == "Flatten" and attributes.get("axis", 1) != 1:
            raise PolicyFileError(f"has {_title(node)}, over another axis than 1")


def _attributes(node: NodeProto) -> dict[str, float]:
    """Return the attributes that are numbers."""
    return {
        each.name: each.f if each.type == onnx.AttributeProto.FLOAT else each.i
        for each in node.attribute
    }


def _unknown(node: NodeProto) -> PolicyFileError:
    """Return the error of an operator that no policy has."""
    why = f"a policy is a chain of {LAYERS}"
    if node.op_type in RECURRENT:
        why = "a recurrent network, and a policy answers a state without memory"
    elif node.op_type in IMAGE:
        why = "an image network, and a state has four numbers"
    return PolicyFileError(f"has {_title(node)}: {why}")


def _title(node: NodeProto) -> str:
    return f"the operator {node.op_type[:100]!r}"


def _in_batches(q_values: QFunction, size: int) -> QFunction:
    """Return a function of any number of states for a graph that takes `size` at once."""

    def function(states: Float32Array) -> Float32Array:
        padding = -len(states) % size
        padded = np.concatenate([states, np.zeros((padding, STATE_SIZE), np.float32)])
        batches = padded.reshape(-1, size, STATE_SIZE)
        return np.concatenate([q_values(batch) for batch in batches])[: len(states)]

    return function
