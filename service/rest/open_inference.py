"""The Open Inference Protocol v2 over REST: requests below /v2 in, answers out. What a tensor must be is in `tensors`."""

import json
import zlib
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import Receive, Scope, Send

from service.api import act as answers
from service.api import open_inference as tensors
from service.api.open_inference import OpenInferenceError, Tensor, bad_request
from service.api.problems import ProblemError
from service.inference.policy import Float32Array, Policy
from service.rest import request_body as bodies
from service.rollout.reloader import Reload, Reloader
from service.settings import Settings
from service.state import ServiceState

PREFIX = "/v2"
HEADER_LENGTH = (
    "Inference-Header-Content-Length"  # bytes of the JSON that a binary body begins with
)
HEADROOM = 65_536  # bytes that the JSON of a binary request may have beside its tensors

Parameters = dict[str, JsonValue]
Size = Annotated[int, Field(ge=0, le=2**31 - 1, strict=True)]
Dimension = Annotated[int, Field(ge=-(2**63), le=2**63 - 1, strict=True)]


class _Part(BaseModel):
    # Unlike on /act, a field of another name is no error: the protocol lets its extensions add some.
    model_config = ConfigDict(frozen=True)

    name: str
    parameters: Parameters = {}


class InputTensor(_Part):
    """An input as the protocol describes it."""

    shape: list[Dimension] = Field(max_length=16)
    datatype: str
    data: list[JsonValue] | None = None


class RequestedOutput(_Part):
    """An output that is asked for."""


class InferRequest(BaseModel):
    """The JSON of an inference request."""

    model_config = ConfigDict(frozen=True)

    id: str | None = None
    parameters: Parameters = {}
    inputs: list[InputTensor] = Field(max_length=16)
    outputs: list[RequestedOutput] = Field([], max_length=16)


class RepositoryRequest(BaseModel):
    """The JSON of a repository request."""

    ready: bool = False
    parameters: Parameters = {}


Handler = Callable[[Request], Awaitable[Response]]


class OpenInference:
    """The ASGI application of everything below /v2. Every status but 200 comes with `{"error": …}`."""

    def __init__(self, settings: Settings, service_state: ServiceState, reloader: Reloader) -> None:
        self._settings = settings
        self._service_state = service_state
        self._reloader = reloader

    def routes(self) -> list[BaseRoute]:
        """Return the routes that lead here: /v2 itself and all below it."""
        return [Route(PREFIX, self), Mount(PREFIX, self)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":  # a WebSocket below /v2
            await send({"type": "websocket.close", "code": 1008})
            return
        request = Request(scope, receive)
        try:
            response = await self._answer(request)
        except OpenInferenceError as error:
            if error.status == HTTPStatus.INTERNAL_SERVER_ERROR:
                request.state.failure = error  # the lane tells of it
            response = _error(error.status, str(error))
        except ProblemError as error:
            response = _error(
                error.status,
                str(error),
                {name.decode(): value.decode() for name, value in error.headers},
            )
        except bodies.ClientGoneError:
            return
        except Exception as error:
            request.state.failure = error
            response = _error(
                HTTPStatus.INTERNAL_SERVER_ERROR, "the service failed to answer; its log says why"
            )
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        method, handler = self._find(
            request.scope["path"].removeprefix(PREFIX).strip("/").split("/")
        )
        if request.method != method:
            error = f"{request.method} {request.url.path}: only {method} is answered here"
            return _error(HTTPStatus.METHOD_NOT_ALLOWED, error, {"Allow": method})
        return await handler(request)

    def _find(self, parts: list[str]) -> tuple[str, Handler]:
        """Return the method and what answers it. Raises `OipError`."""
        match parts:
            case [""]:
                return "GET", _always(
                    {
                        "name": tensors.SERVER,
                        "version": tensors.SERVER_VERSION,
                        "extensions": tensors.EXTENSIONS,
                    }
                )
            case ["health", "live"]:
                return "GET", _always({"live": True})
            case ["health", "ready"]:
                if self._service_state.draining:
                    raise OpenInferenceError(
                        HTTPStatus.SERVICE_UNAVAILABLE, "the service is ending"
                    )
                return "GET", _always({"ready": True})
            case ["repository", "index"]:
                return "POST", self._index
            case ["repository", "models", name, "load"]:
                return "POST", lambda request: self._load(request, name)
            case ["repository", "models", name, "unload"]:
                return "POST", lambda request: self._unload(request, name)
            case ["models", name, "versions", version, *rest]:
                return self._find_model(name, version, rest)
            case ["models", name, *rest] if rest[:1] != ["versions"]:
                return self._find_model(name, None, rest)
        raise OpenInferenceError(
            HTTPStatus.NOT_FOUND, f"there is no {PREFIX}/{'/'.join(parts)[:200]}"
        )

    def _find_model(self, name: str, version: str | None, rest: list[str]) -> tuple[str, Handler]:
        match rest:
            case [] | ["ready"] | ["config"] | ["infer"]:
                tensors.check_model(self._service_state.policy, name, version)
        match rest:
            case []:
                return "GET", _always(tensors.metadata(self._service_state.policy))
            case ["ready"]:
                return "GET", _always({"name": name, "ready": True})
            case ["config"]:
                return "GET", _always(
                    tensors.config(self._service_state.policy, self._settings.max_batch)
                )
            case ["infer"]:
                return "POST", self._infer
        raise OpenInferenceError(
            HTTPStatus.NOT_FOUND, f"there is no /{'/'.join(rest)[:200]} of a model"
        )

    async def _infer(self, request: Request) -> Response:
        policy = self._service_state.policy  # this request's own, whatever replaces it meanwhile
        answers.check_digest(policy, request.headers.get("if-match"))
        body = await self._body(request)
        header_length = _header_length(request, len(body))
        try:
            asked = InferRequest.model_validate_json(body[:header_length])
        except ValidationError as error:
            raise bad_request(_explain(error)) from error
        names = [tensor.name for tensor in asked.inputs]
        given = asked.inputs[0] if asked.inputs else InputTensor(name="", shape=[], datatype="")
        count = tensors.check_input(names, given.datatype, given.shape, self._settings.max_batch)
        binary = None if header_length is None else body[header_length:]
        found, inference = tensors.infer(
            policy, _states(given, binary, count), [output.name for output in asked.outputs]
        )
        request.state.inference = inference
        return _inferred(policy, asked, found)

    async def _index(self, request: Request) -> Response:
        await self._repository(request)
        manifest = self._service_state.policy.bundle.manifest
        return JSONResponse(
            [{"name": manifest.name, "version": manifest.version, "state": "READY", "reason": ""}]
        )

    async def _load(self, request: Request, name: str) -> Response:
        """Serve the bundle that lies in the folder."""
        tensors.check_model(self._service_state.policy, name, None)
        if (await self._repository(request)).parameters:
            raise bad_request(NO_PARAMETERS)
        check_loaded(await self._reloader.load(name))
        return JSONResponse({})

    async def _unload(self, request: Request, name: str) -> Response:
        tensors.check_model(self._service_state.policy, name, None)
        await self._repository(request)
        raise OpenInferenceError(HTTPStatus.NOT_IMPLEMENTED, UNLOAD)

    async def _repository(self, request: Request) -> RepositoryRequest:
        body = await self._body(request)
        try:
            return RepositoryRequest.model_validate_json(body or b"{}")
        except ValidationError as error:
            raise bad_request(_explain(error)) from error

    async def _body(self, request: Request) -> bytes:
        limit = self._settings.max_batch_body + HEADROOM
        body = await bodies.read(request, limit)
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


NO_PARAMETERS = "a load takes no parameters here: the bundle's manifest is the configuration"
UNLOAD = "the one model of this service cannot be unloaded: it is served until the service ends"


def check_loaded(reload: Reload) -> None:
    """Raise `OipError` where a load was refused: 409, for the request was good, and what lies on the disk is in its way."""
    if reload.outcome == "refused":
        raise OpenInferenceError(
            HTTPStatus.CONFLICT, f"not loaded, {reload.digest} is served on: {reload.reason}"
        )


def _inferred(policy: Policy, asked: InferRequest, found: list[Tensor]) -> Response:
    everywhere = _flag(asked.parameters, "binary_data_output", False)
    wanted = {
        output.name: _flag(output.parameters, "binary_data", everywhere) for output in asked.outputs
    }
    outputs: list[dict[str, object]] = []
    raw = b""
    for tensor in found:
        described: dict[str, object] = {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": tensor.shape,
        }
        if wanted.get(tensor.name, everywhere):
            raw += tensor.raw
            described["parameters"] = {"binary_data_size": len(tensor.raw)}
        else:
            described["data"] = tensor.data
        outputs.append(described)
    manifest = policy.bundle.manifest
    answer: dict[str, object] = {"model_name": manifest.name, "model_version": manifest.version}
    if asked.id is not None:
        answer["id"] = asked.id
    answer |= {"parameters": {"digest": policy.bundle.digest}, "outputs": outputs}
    text = json.dumps(answer, separators=(",", ":")).encode()
    headers = {"ETag": answers.etag(policy)}
    if not raw:
        return Response(text, headers=headers, media_type="application/json")
    return Response(
        text + raw,
        headers=headers | {HEADER_LENGTH: str(len(text))},
        media_type="application/octet-stream",
    )


def _always(answer: dict[str, object]) -> Handler:
    async def handler(_: Request) -> Response:
        return JSONResponse(answer)

    return handler


def _error(status: HTTPStatus, message: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": message}, status, headers)


def _header_length(request: Request, size: int) -> int | None:
    text = request.headers.get(HEADER_LENGTH)
    if text is None:
        return None
    # Eighteen digits are more than any body has, and int() never sees thousands of them.
    if not (text.isascii() and text.isdecimal()) or len(text) > 18 or int(text) > size:
        raise bad_request(
            f"{HEADER_LENGTH} must be from 0 to the body's {size} bytes, not {text[:60]!r}"
        )
    return int(text)


def _states(given: InputTensor, binary: bytes | None, count: int) -> Float32Array:
    size = given.parameters.get("binary_data_size")
    for other in given.parameters:
        if other.startswith("shared_memory"):
            raise bad_request(f"input {given.name!r}: shared memory is not offered here")
    if size is None:
        if given.data is None:
            raise bad_request(f"input {given.name!r}: has neither data nor binary_data_size")
        if binary:
            raise bad_request(
                f"{len(binary)} bytes follow the JSON, and no input takes them by binary_data_size"
            )
        return tensors.states_of_numbers(given.data, count)
    if given.data is not None:
        raise bad_request(f"input {given.name!r}: has both data and binary_data_size")
    if type(size) is not int or size < 0:
        raise bad_request(
            f"input {given.name!r}: binary_data_size must be a whole number from 0, not {str(size)[:60]!r}"
        )
    if binary is None:
        raise bad_request(
            f"input {given.name!r}: binary_data_size needs the header {HEADER_LENGTH}"
        )
    if size != len(binary):
        raise bad_request(
            f"input {given.name!r}: binary_data_size is {size}, but {len(binary)} bytes follow the JSON"
        )
    return tensors.states_of_raw(binary, count)


def _flag(parameters: Parameters, name: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise bad_request(f"parameter {name} must be true or false, not {str(value)[:60]!r}")
    return value


def _inflate(body: bytes, window: int, limit: int) -> bytes:
    """Return the inflated body. Raises `OipError` as soon as it is known to be above `limit` bytes: a few bytes can stand for gigabytes."""
    inflater = zlib.decompressobj(window)
    try:
        inflated = inflater.decompress(body, limit + 1)
    except zlib.error as error:
        raise bad_request(f"the body is not what its Content-Encoding says: {error}") from error
    if len(inflated) > limit:
        raise OpenInferenceError(
            HTTPStatus(413),
            f"the inflated body has more than the {limit} bytes that this door takes",
        )
    if not inflater.eof or inflater.unused_data:
        raise bad_request("the compressed body is cut off, or something follows it")
    return inflated


def _explain(error: ValidationError) -> str:
    detail = error.errors(include_url=False, include_input=False)[0]
    place = "/".join(str(part) for part in detail["loc"])
    return f"{place}: {detail['msg']}" if place else detail["msg"]
