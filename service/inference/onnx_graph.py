"""What the graph of an ONNX file may hold, looked at before a runtime sees it.

A policy is a chain of Gemm and Relu. Other operators, such as Loop, can run without end or need
files and libraries; a function of the model could give one of the two names another meaning. Field
numbers are those of onnx.proto3 (https://github.com/onnx/onnx, ONNX IR).
"""

from service.inference.protobuf import BYTES, Field, WireError, fields

OPERATORS = ("Gemm", "Relu")
DOMAINS = (b"", b"ai.onnx")
NODES_LIMIT = 200
MODEL_GRAPH, MODEL_TRAINING, MODEL_FUNCTIONS = 7, 20, 25
GRAPH_NODE, GRAPH_TENSOR, GRAPH_SPARSE_TENSOR = 1, 5, 15
TENSOR_EXTERNAL_DATA = 13
NODE_OPERATOR, NODE_ATTRIBUTE, NODE_DOMAIN = 4, 5, 7
ATTRIBUTE_GRAPH, ATTRIBUTE_GRAPHS = 6, 11


class GraphError(ValueError):
    """Raised where a graph holds what no policy does; says what."""


def check_graph(content: bytes) -> None:
    """Check that an ONNX model is made of the allowed operators.

    Raises `GraphError`, and `WireError` for bytes that are no model.
    """
    nodes = 0
    for number, _, start, end in _messages(content, 0, len(content)):
        if number in (MODEL_TRAINING, MODEL_FUNCTIONS):
            raise GraphError("has functions of its own; a policy has none")
        if number != MODEL_GRAPH:
            continue
        for inner, _, node_start, node_end in _messages(content, start, end):
            if inner == GRAPH_NODE:
                nodes += 1
                _check_node(content, node_start, node_end)
            if inner == GRAPH_TENSOR:
                _check_tensor(content, node_start, node_end)
            if inner == GRAPH_SPARSE_TENSOR:
                raise GraphError("has sparse weights; a policy has none")

    if nodes == 0:
        raise WireError("there is no operator in it")
    if nodes > NODES_LIMIT:
        raise GraphError(f"has {nodes} operators; a policy has at most {NODES_LIMIT}")


def _check_node(content: bytes, start: int, end: int) -> None:
    for number, _, value_start, value_end in _messages(content, start, end):
        value = content[value_start : min(value_end, value_start + 100)]
        if number == NODE_OPERATOR and value.decode("utf-8", "replace") not in OPERATORS:
            name = value.decode("utf-8", "replace")
            raise GraphError(f"has the operator {name!r}; a policy has {' and '.join(OPERATORS)}")
        if number == NODE_DOMAIN and value not in DOMAINS:
            raise GraphError(f"has an operator of the domain {value.decode('utf-8', 'replace')!r}")
        if number == NODE_ATTRIBUTE:
            for attribute, _, _, _ in _messages(content, value_start, value_end):
                if attribute in (ATTRIBUTE_GRAPH, ATTRIBUTE_GRAPHS):
                    raise GraphError("has a graph within an operator; a policy has none")


def _check_tensor(content: bytes, start: int, end: int) -> None:
    for number, _, _, _ in _messages(content, start, end):
        if number == TENSOR_EXTERNAL_DATA:
            raise GraphError("has weights in another file; a policy's are in this one")


def _messages(content: bytes, start: int, end: int) -> list[Field]:
    """Return the fields of a message that are bytes: texts and messages."""
    return [each for each in fields(content, start, end) if each[1] == BYTES]
