"""An inference of the Open Inference Protocol over REST, from the bytes asked to those answered.

The body is JSON, or the JSON and bytes behind it that the protocol's binary extension describes.
What a tensor must be is in `service.api.open_inference.protocol`.
"""

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

from service.api import problems
from service.api.act import etag
from service.api.open_inference import protocol
from service.api.open_inference.protocol import Tensor, bad_request
from service.api.open_inference.schemas import InferRequest, InputTensor, Parameters
from service.api.ranges import STRICT
from service.inference.backends import Float32Array
from service.inference.policy import Inference, Policy
from service.types import Body, RawHeader

BYTES = "application/octet-stream"  # of JSON and the bytes behind it
# A header: the bytes of the JSON that a binary body begins with.
HEADER_LENGTH = "Inference-Header-Content-Length"
RAW_HEADER_LENGTH = HEADER_LENGTH.lower().encode()

# The schema's own validator, which costs half of what `model_validate_json` does.
validate = TypeAdapter(InferRequest).validator.validate_json

# A good response: its content, its media type, its headers, and the inference behind it.
Answer = tuple[bytes, str, list[RawHeader], Inference]


def infer(
    policy: Policy,
    name: str,
    body: Body,
    header_length: str | None,
    max_batch: int,
    *,
    strict: bool = False,
) -> Answer:
    """Answer some states, at most `max_batch`, by the model of this name.

    `header_length` is the header `Inference-Header-Content-Length`, None where there is none.
    `strict` refuses states outside what training saw, whatever the request asks for.
    Raises `OpenInferenceError`.
    """
    json_size = None if header_length is None else _json_size(header_length, len(body))
    document = body if json_size is None else body[:json_size]
    protocol.check_size(document, max_batch)
    try:
        request: InferRequest = validate(document)
    except ValidationError as error:
        raise bad_request(explain(error, body)) from error
    for output in request.outputs:
        protocol.check_output_parameters(output.name, output.parameters)

    names = [tensor.name for tensor in request.inputs]
    tensor = request.inputs[0] if names else InputTensor(name="", shape=[], datatype="")
    count = protocol.check_input(names, tensor.datatype, tensor.shape, max_batch)
    raw = None if json_size is None else body[json_size:]
    is_strict = _flag(request.parameters, STRICT, default=False) or strict
    outputs, inference = protocol.infer(
        policy,
        _states(tensor, raw, count),
        [output.name for output in request.outputs],
        strict=is_strict,
    )
    return *_render(policy, name, request, outputs), inference


def explain(error: ValidationError, body: Body) -> str:
    """Return what is wrong with a document, in one line."""
    if body.startswith(problems.BYTE_ORDER_MARK):
        return problems.BYTE_ORDER_MARK_DETAIL
    detail = error.errors(include_url=False, include_input=False)[0]
    place = "/".join(str(part) for part in detail["loc"])
    return f"{place}: {detail['msg']}" if place else detail["msg"]


def _json_size(text: str, size: int) -> int:
    """Return the bytes of the JSON in a binary body of `size` bytes."""
    # Eighteen digits are more than any body has, and int() never sees thousands of them.
    if not (text.isascii() and text.isdecimal()) or len(text) > 18 or int(text) > size:
        raise bad_request(
            f"{HEADER_LENGTH} must be from 0 to the body's {size} bytes, not {text[:60]!r}"
        )
    return int(text)


def _states(tensor: InputTensor, raw: Body | None, count: int) -> Float32Array:
    """Return the states, (count, 4), of an input and of the bytes that follow the JSON."""
    label = f"input {tensor.name!r}"
    protocol.refuse_shared_memory(label, tensor.parameters)

    size = tensor.parameters.get("binary_data_size")
    if size is not None:
        return _binary_states(tensor, size, raw, count)
    if tensor.data is None:
        raise bad_request(f"{label}: has neither data nor binary_data_size")
    if raw:
        raise bad_request(
            f"{len(raw)} bytes follow the JSON, and no input takes them by binary_data_size"
        )
    return protocol.states_of_numbers(tensor.data, count, tensor.datatype)


def _binary_states(tensor: InputTensor, size: object, raw: Body | None, count: int) -> Float32Array:
    label = f"input {tensor.name!r}"
    if tensor.data is not None:
        raise bad_request(f"{label}: has both data and binary_data_size")
    if type(size) is not int or size < 0:
        raise bad_request(
            f"{label}: binary_data_size must be a whole number from 0, not {str(size)[:60]!r}"
        )
    if raw is None:
        raise bad_request(f"{label}: binary_data_size needs the header {HEADER_LENGTH}")
    if size != len(raw):
        raise bad_request(
            f"{label}: binary_data_size is {size}, but {len(raw)} bytes follow the JSON"
        )
    return protocol.states_of_raw(raw, count, tensor.datatype)


def _render(
    policy: Policy, name: str, request: InferRequest, tensors: list[Tensor]
) -> tuple[bytes, str, list[RawHeader]]:
    """Return the content of a good response, its media type and its headers."""
    is_binary = _flag(request.parameters, "binary_data_output", default=False)
    is_binary_by_name = {
        output.name: _flag(output.parameters, "binary_data", default=is_binary)
        for output in request.outputs
    }
    outputs: list[dict[str, object]] = []
    raw = b""
    for tensor in tensors:
        output: dict[str, object] = {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": tensor.shape,
        }
        if is_binary_by_name.get(tensor.name, is_binary):
            content = tensor.raw
            raw += content
            output["parameters"] = {"binary_data_size": len(content)}
        else:
            output["data"] = tensor.data
        outputs.append(output)

    document: dict[str, object] = {
        "model_name": name,
        "model_version": policy.bundle.manifest.version,
    }
    if request.id is not None:
        document["id"] = request.id
    document["parameters"] = {"digest": policy.bundle.digest}
    document["outputs"] = outputs
    text = to_json(document)

    headers: list[RawHeader] = [(b"etag", etag(policy).encode())]
    if not raw:
        return text, problems.JSON, headers
    headers.append((RAW_HEADER_LENGTH, b"%d" % len(text)))
    return text + raw, BYTES, headers


def _flag(parameters: Parameters, name: str, *, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise bad_request(f"parameter {name} must be true or false, not {str(value)[:60]!r}")
    return value
