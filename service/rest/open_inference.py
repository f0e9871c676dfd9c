"""The Open Inference Protocol v2 over REST: the routes below /v2.

This module reads and writes the protocol's JSON and its binary extension. What a tensor must be is
in `service.api.open_inference`.
"""

import json
import re
import zlib
from http import HTTPStatus
from typing import Any

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from service.api import open_inference, problems
from service.api.act import check_digest, etag
from service.api.open_inference import OpenInferenceError, Tensor, bad_request
from service.api.open_inference_schemas import (
    Empty,
    InferRequest,
    InferResponse,
    InputTensor,
    LoadRequest,
    ModelConfig,
    ModelIndexEntry,
    ModelList,
    ModelMetadata,
    ModelReady,
    Parameters,
    RepositoryRequest,
    ServerLive,
    ServerMetadata,
    ServerReady,
)
from service.endpoints import OPEN_INFERENCE_PREFIX
from service.inference.backends import Float32Array
from service.inference.policy import Policy
from service.rest.docs import (
    DocumentedRoute,
    Handler,
    open_inference_responses,
    reference,
    request_body,
)
from service.rest.request_body import read_body
from service.rest.responses import ObservedResponse, Outcome
from service.rollout.reloader import Reloader
from service.settings import Settings
from service.state import ServiceState
from service.types import RawHeader

# A header: the bytes of the JSON that a binary body begins with.
HEADER_LENGTH = "Inference-Header-Content-Length"

_MODEL_PATHS = ("/models/{name}", "/models/{name}/versions/{version}")
_BELOW_MODEL = re.compile(
    rf"{OPEN_INFERENCE_PREFIX}/models/[^/]+(?:/versions/[^/]+)?/(?!versions(?:/|$))(?P<rest>.*)",
    re.DOTALL,
)
_IF_MATCH = {
    "name": "If-Match",
    "in": "header",
    "schema": {"type": "string"},
    "description": 'answer only if the bundle served has this digest, in quotes: "sha256:…"',
}
_NO_MODEL = {404: "There is no such model or version"}
_BAD_REQUEST = {400: "The request is not as it must be", 413: "The body is too large"}
_BAD_ENCODING = {415: "The body's Content-Encoding is neither gzip nor deflate"}
_OTHER_BUNDLE = {412: "Another bundle is served"}
_FAILED = {500: "The policy failed on a state as training saw them"}


class OpenInferenceEndpoints:
    """Answers requests below /v2; every status but 200 comes with `{"error": …}`."""

    def __init__(self, settings: Settings, service_state: ServiceState, reloader: Reloader) -> None:
        self._settings = settings
        self._service_state = service_state
        self._reloader = reloader

    def routes(self) -> list[DocumentedRoute]:
        """Return the routes. They are tried in turn, so those that control loops use come first."""
        return [
            *self._infer_routes(),
            *self._model_routes(),
            *self._server_routes(),
            *self._repository_routes(),
        ]

    def _infer_routes(self) -> list[DocumentedRoute]:
        return [
            _route(
                "POST",
                f"{path}/infer",
                self.infer,
                InferResponse,
                "Infer Q-values and actions",
                errors=_BAD_REQUEST | _NO_MODEL | _OTHER_BUNDLE | _BAD_ENCODING | _FAILED,
                body=request_body(reference(InferRequest)),
            )
            for path in _MODEL_PATHS
        ]

    def _server_routes(self) -> list[DocumentedRoute]:
        return [
            _route("GET", "", self.server_metadata, ServerMetadata, "Describe the server"),
            _route("GET", "/models", self.models, ModelList, "List the one model"),
            _route("GET", "/health/live", self.live, ServerLive, "Is the process alive?"),
            _route(
                "GET",
                "/health/ready",
                self.ready,
                ServerReady,
                "Does the server take requests?",
                errors={503: "The service is ending"},
            ),
        ]

    def _model_routes(self) -> list[DocumentedRoute]:
        endpoints: list[tuple[str, Handler, Any, str]] = [
            ("", self.model_metadata, ModelMetadata, "Describe the model's tensors"),
            ("/ready", self.model_ready, ModelReady, "Does the model take requests?"),
            (
                "/config",
                self.model_config,
                ModelConfig,
                "Describe the model as Triton's configuration does",
            ),
        ]
        return [
            _route("GET", path + end, handler, response, summary, errors=_NO_MODEL)
            for path in _MODEL_PATHS
            for end, handler, response, summary in endpoints
        ]

    def _repository_routes(self) -> list[DocumentedRoute]:
        body = request_body(reference(RepositoryRequest), is_required=False)
        errors = _BAD_REQUEST | _BAD_ENCODING
        return [
            _route(
                "POST",
                "/repository/index",
                self.index,
                list[ModelIndexEntry],
                "List the one model",
                errors=errors,
                body=body,
            ),
            _route(
                "POST",
                "/repository/models/{name}/load",
                self.load,
                Empty,
                "Serve the bundle that lies in the folder",
                errors=errors
                | _NO_MODEL
                | {409: "The bundle cannot be served; the one served stays"},
                body=request_body(reference(LoadRequest), is_required=False),
            ),
            _route(
                "POST",
                "/repository/models/{name}/unload",
                self.unload,
                Empty,
                "Unload the model, which is always refused",
                errors=errors | _NO_MODEL | {501: "The one model cannot be unloaded"},
                body=body,
            ),
        ]

    async def server_metadata(self, _: Request) -> Response:
        """Name the server, and the extensions of the protocol that it knows."""
        return JSONResponse(
            {
                "name": open_inference.SERVER,
                "version": open_inference.SERVER_VERSION,
                "extensions": open_inference.EXTENSIONS,
            }
        )

    async def live(self, _: Request) -> Response:
        """Answer while the process is alive."""
        return JSONResponse({"live": True})

    async def ready(self, _: Request) -> Response:
        """Answer while the service is not draining."""
        self._check_ready()
        return JSONResponse({"ready": True})

    async def model_metadata(self, request: Request) -> Response:
        """Return the names, the types and the shapes of the model's inputs and outputs."""
        return JSONResponse(open_inference.metadata(self._policy(request)))

    async def model_ready(self, request: Request) -> Response:
        """Answer where this model is served."""
        manifest = self._policy(request).bundle.manifest
        self._check_ready()
        return JSONResponse({"name": manifest.name, "ready": True})

    async def model_config(self, request: Request) -> Response:
        """Return the model's configuration; it shows the largest batch."""
        config = open_inference.config(self._policy(request), self._settings.max_batch)
        return JSONResponse(config)

    async def infer(self, request: Request) -> Response:
        """Answer some states.

        Tensors come and go as JSON, or as bytes behind it, as the protocol's binary extension
        describes it. The body may be compressed by gzip or deflate.
        """
        policy = self._policy(request)  # this request's own, whatever replaces it meanwhile
        check_digest(policy, request.headers.get("if-match"))
        body = await self._read(request)
        header_length = _header_length(request, len(body))
        document = body[:header_length]
        open_inference.check_size(document, self._settings.max_batch)
        try:
            infer_request = InferRequest.model_validate_json(document)
        except ValidationError as error:
            raise bad_request(_explain(error, body)) from error
        for output in infer_request.outputs:
            open_inference.refuse_classification(output.parameters)

        names = [tensor.name for tensor in infer_request.inputs]
        no_input = InputTensor(name="", shape=[], datatype="")
        tensor = infer_request.inputs[0] if infer_request.inputs else no_input
        count = open_inference.check_input(
            names, tensor.datatype, tensor.shape, self._settings.max_batch
        )
        raw = None if header_length is None else body[header_length:]
        output_names = [output.name for output in infer_request.outputs]
        outputs, inference = open_inference.infer(policy, _states(tensor, raw, count), output_names)
        return _infer_response(policy, infer_request, outputs, Outcome(inference))

    async def index(self, request: Request) -> Response:
        """List the model that is served, with its version."""
        await self._repository_request(request)
        return JSONResponse(open_inference.index(self._service_state.policy))

    async def models(self, _: Request) -> Response:
        """List the model that is served, with its version."""
        return JSONResponse({"models": open_inference.index(self._service_state.policy)})

    async def load(self, request: Request) -> Response:
        """Serve the bundle that lies in the service's folder, if it may be served."""
        self._policy(request)
        if (await self._repository_request(request)).parameters:
            raise bad_request(open_inference.NO_LOAD_PARAMETERS)

        reload = await self._reloader.load(request.path_params["name"])
        if reload.outcome == "refused":
            raise open_inference.refused_load(reload.digest, reload.reason)
        return JSONResponse({})

    async def unload(self, request: Request) -> Response:
        """Refuse: the one model is served until the service ends."""
        self._policy(request)
        await self._repository_request(request)
        raise OpenInferenceError(HTTPStatus.NOT_IMPLEMENTED, open_inference.NO_UNLOAD)

    def _check_ready(self) -> None:
        if self._service_state.draining:
            raise OpenInferenceError(HTTPStatus.SERVICE_UNAVAILABLE, "the service is ending")

    def _policy(self, request: Request) -> Policy:
        """Return the policy that is served, if it is the model that the path names."""
        policy = self._service_state.policy
        parameters = request.path_params
        open_inference.check_model(policy, parameters["name"], parameters.get("version"))
        return policy

    async def _repository_request(self, request: Request) -> RepositoryRequest:
        body = await self._read(request)
        open_inference.check_size(body, self._settings.max_batch)
        try:
            return RepositoryRequest.model_validate_json(body or b"{}")
        except ValidationError as error:
            raise bad_request(_explain(error, body)) from error

    async def _read(self, request: Request) -> bytes:
        """Return the request's body as it was before it was compressed."""
        limit = self._settings.max_batch_body + open_inference.JSON_HEADROOM
        body = await read_body(request, limit, reads_encodings=True)
        match request.headers.get("content-encoding", "identity").strip().lower():
            case "identity":
                return body
            case "gzip" | "x-gzip":
                return _inflate(body, 16 + zlib.MAX_WBITS, limit)
            case "deflate":
                return _inflate(body, zlib.MAX_WBITS, limit)
            case other:
                raise OpenInferenceError(
                    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                    f"Content-Encoding must be gzip or deflate, not {other[:100]!r}",
                )


def not_found(path: str) -> OpenInferenceError:
    """Return the error of a path below /v2 where nothing is."""
    match = _BELOW_MODEL.fullmatch(path)
    message = f"there is no /{match['rest'][:200]} of a model" if match else None
    place = path.removeprefix(f"{OPEN_INFERENCE_PREFIX}/")[:200]
    return OpenInferenceError(
        HTTPStatus.NOT_FOUND, message or f"there is no {OPEN_INFERENCE_PREFIX}/{place}"
    )


def method_not_allowed(method: str, path: str, allowed: str) -> OpenInferenceError:
    """Return the error of a path below /v2 that is answered by other methods only."""
    return OpenInferenceError(
        HTTPStatus.METHOD_NOT_ALLOWED,
        f"{method} {path}: only {allowed} is answered here",
        [(b"allow", allowed.encode())],
    )


def _route(
    method: str,
    path: str,
    handler: Handler,
    response: Any,
    summary: str,
    *,
    errors: dict[int, str] | None = None,
    body: dict[str, Any] | None = None,
) -> DocumentedRoute:
    """Return a route below /v2, with what the OpenAPI document says of it."""
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)\}", path)
    ]
    if errors is not None and HTTPStatus.PRECONDITION_FAILED in errors:
        parameters.append(_IF_MATCH)

    documentation = {
        "response_model": response,
        "responses": open_inference_responses(errors or {}),
        "summary": summary,
        "tags": ["Open Inference Protocol v2"],
        "openapi_extra": {"parameters": parameters} | (body or {}),
    }
    return DocumentedRoute(OPEN_INFERENCE_PREFIX + path, handler, method, documentation)


def _infer_response(
    policy: Policy, infer_request: InferRequest, tensors: list[Tensor], outcome: Outcome
) -> Response:
    is_binary = _flag(infer_request.parameters, "binary_data_output", False)
    is_binary_by_name = {
        output.name: _flag(output.parameters, "binary_data", is_binary)
        for output in infer_request.outputs
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
            raw += tensor.raw
            output["parameters"] = {"binary_data_size": len(tensor.raw)}
        else:
            output["data"] = tensor.data
        outputs.append(output)

    manifest = policy.bundle.manifest
    document: dict[str, object] = {
        "model_name": manifest.name,
        "model_version": manifest.version,
    }
    if infer_request.id is not None:
        document["id"] = infer_request.id
    document |= {"parameters": {"digest": policy.bundle.digest}, "outputs": outputs}
    text = json.dumps(document, separators=(",", ":")).encode()

    headers: list[RawHeader] = [(b"etag", etag(policy).encode())]
    if not raw:
        return ObservedResponse(text, HTTPStatus.OK, headers, "application/json", outcome)
    headers.append((HEADER_LENGTH.lower().encode(), b"%d" % len(text)))
    return ObservedResponse(text + raw, HTTPStatus.OK, headers, "application/octet-stream", outcome)


def _header_length(request: Request, size: int) -> int | None:
    """Return the bytes of the JSON in a binary body of `size` bytes, or None for a JSON body."""
    text = request.headers.get(HEADER_LENGTH)
    if text is None:
        return None

    # Eighteen digits are more than any body has, and int() never sees thousands of them.
    if not (text.isascii() and text.isdecimal()) or len(text) > 18 or int(text) > size:
        raise bad_request(
            f"{HEADER_LENGTH} must be from 0 to the body's {size} bytes, not {text[:60]!r}"
        )
    return int(text)


def _states(tensor: InputTensor, raw: bytes | None, count: int) -> Float32Array:
    """Return the states, (count, 4), of an input and of the bytes that follow the JSON."""
    label = f"input {tensor.name!r}"
    if any(parameter.startswith("shared_memory") for parameter in tensor.parameters):
        raise bad_request(f"{label}: shared memory is not offered here")

    size = tensor.parameters.get("binary_data_size")
    if size is not None:
        return _binary_states(tensor, size, raw, count)
    if tensor.data is None:
        raise bad_request(f"{label}: has neither data nor binary_data_size")
    if raw:
        raise bad_request(
            f"{len(raw)} bytes follow the JSON, and no input takes them by binary_data_size"
        )
    return open_inference.states_of_numbers(tensor.data, count, tensor.datatype)


def _binary_states(
    tensor: InputTensor, size: object, raw: bytes | None, count: int
) -> Float32Array:
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
    return open_inference.states_of_raw(raw, count, tensor.datatype)


def _flag(parameters: Parameters, name: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise bad_request(f"parameter {name} must be true or false, not {str(value)[:60]!r}")
    return value


def _inflate(body: bytes, window: int, limit: int) -> bytes:
    """Return the inflated body.

    Raises `OpenInferenceError` as soon as it is known to be above `limit` bytes: a few bytes can
    stand for gigabytes.
    """
    inflater = zlib.decompressobj(window)
    try:
        inflated = inflater.decompress(body, limit + 1)
    except zlib.error as error:
        raise bad_request(f"the body is not what its Content-Encoding says: {error}") from error

    if len(inflated) > limit:
        raise OpenInferenceError(
            HTTPStatus(413),
            f"the inflated body has more than the {limit} bytes that this endpoint takes",
        )
    if not inflater.eof or inflater.unused_data:
        raise bad_request("the compressed body is cut off, or something follows it")
    return inflated


def _explain(error: ValidationError, body: bytes) -> str:
    if body.startswith(problems.BYTE_ORDER_MARK):
        return problems.BYTE_ORDER_MARK_DETAIL
    detail = error.errors(include_url=False, include_input=False)[0]
    place = "/".join(str(part) for part in detail["loc"])
    return f"{place}: {detail['msg']}" if place else detail["msg"]
