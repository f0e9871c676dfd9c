"""The Open Inference Protocol v2 over REST: the routes below /v2.

This module reads and writes the protocol's JSON and its binary extension. What a tensor must be is
in `service.api.open_inference.protocol`.
"""

import re
import zlib
from http import HTTPStatus
from typing import Any

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from service.api.act import check_digest
from service.api.open_inference import protocol, rest
from service.api.open_inference.model import ServedModel
from service.api.open_inference.protocol import OpenInferenceError, bad_request
from service.api.open_inference.rest import HEADER_LENGTH, explain
from service.api.open_inference.schemas import (
    Empty,
    InferRequest,
    InferResponse,
    LoadRequest,
    ModelConfig,
    ModelIndexEntry,
    ModelList,
    ModelMetadata,
    ModelReady,
    RepositoryRequest,
    ServerLive,
    ServerMetadata,
    ServerReady,
    Statistics,
)
from service.endpoints import OPEN_INFERENCE_PREFIX
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
_STATISTICS = "Count inferences as Triton's statistics do"
_NO_MODEL = {404: "There is no such model or version"}
_BAD_REQUEST = {400: "The request is not as it must be", 413: "The body is too large"}
_BAD_ENCODING = {415: "The body's Content-Encoding is neither gzip nor deflate"}
_OTHER_BUNDLE = {412: "Another bundle is served"}
_OUT_OF_RANGE = {422: "A state is outside what training saw, and that was to be refused"}
_FAILED = {500: "The policy failed on a state as training saw them"}


class OpenInferenceEndpoints:
    """Answers requests below /v2; every status but 200 comes with `{"error": …}`."""

    def __init__(self, settings: Settings, service_state: ServiceState, reloader: Reloader) -> None:
        self._settings = settings
        self._service_state = service_state
        self._reloader = reloader
        self._model = ServedModel(settings.model_name, settings.max_batch)

    def routes(self) -> list[DocumentedRoute]:
        """Return the routes. They are tried in turn, so those that control loops use come first."""
        return [
            *self._infer_routes(),
            *self._server_routes(),  # of which one has the form of a model's
            *self._model_routes(),
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
                errors=_BAD_REQUEST
                | _NO_MODEL
                | _OTHER_BUNDLE
                | _BAD_ENCODING
                | _OUT_OF_RANGE
                | _FAILED,
                body=request_body(reference(InferRequest)),
            )
            for path in _MODEL_PATHS
        ]

    def _server_routes(self) -> list[DocumentedRoute]:
        return [
            _route("GET", "", self.server_metadata, ServerMetadata, "Describe the server"),
            _route("GET", "/models", self.models, ModelList, "List the one model"),
            _route("GET", "/models/stats", self.statistics, Statistics, _STATISTICS),
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
            ("/stats", self.model_statistics, Statistics, _STATISTICS),
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
                "name": protocol.SERVER,
                "version": protocol.SERVER_VERSION,
                "extensions": protocol.EXTENSIONS,
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
        return JSONResponse(self._model.metadata(self._policy(request)))

    async def model_ready(self, request: Request) -> Response:
        """Answer where this model is served."""
        name = request.path_params["name"]
        version = request.path_params.get("version")
        self._model.check(self._service_state.policy, name, version, has_key=False)
        self._check_ready()
        return JSONResponse({"name": name, "ready": True})

    async def model_config(self, request: Request) -> Response:
        """Return the model's configuration; it shows the largest batch."""
        return JSONResponse(self._model.config(self._policy(request)))

    async def statistics(self, _: Request) -> Response:
        """Return what was inferred since the service began, by all of its processes."""
        totals = self._service_state.metrics.totals()
        return JSONResponse(self._model.statistics(self._service_state.policy, totals))

    async def model_statistics(self, request: Request) -> Response:
        """Return what was inferred since the service began, by all of its processes."""
        self._policy(request)
        return await self.statistics(request)

    async def infer(self, request: Request) -> Response:
        """Answer some states.

        Tensors come and go as JSON, or as bytes behind it, as the protocol's binary extension
        describes it. The body may be compressed by gzip or deflate.
        """
        policy = self._policy(request)  # this request's own, whatever replaces it meanwhile
        check_digest(policy, request.headers.get("if-match"))
        body = await self._read(request)
        content, media_type, headers, inference = rest.infer(
            policy,
            self._model.name(policy),
            body,
            request.headers.get(HEADER_LENGTH),
            self._settings.max_batch,
            strict=self._settings.refuse_out_of_range,
        )
        return ObservedResponse(content, HTTPStatus.OK, headers, media_type, Outcome(inference))

    async def index(self, request: Request) -> Response:
        """List the model that is served, with its version."""
        await self._repository_request(request)
        return JSONResponse(self._model.index(self._service_state.policy))

    async def models(self, _: Request) -> Response:
        """List the names that the model may be called by, with its version."""
        return JSONResponse({"models": self._model.models(self._service_state.policy)})

    async def load(self, request: Request) -> Response:
        """Serve the bundle that lies in the service's folder, if it may be served."""
        self._policy(request)
        if (await self._repository_request(request)).parameters:
            raise bad_request(protocol.NO_LOAD_PARAMETERS)

        reload = await self._reloader.load(self._model.bundle_name(request.path_params["name"]))
        if reload.outcome == "refused":
            raise protocol.refused_load(reload.digest, reload.reason)
        return JSONResponse({})

    async def unload(self, request: Request) -> Response:
        """Refuse: the one model is served until the service ends."""
        self._policy(request)
        await self._repository_request(request)
        raise OpenInferenceError(HTTPStatus.NOT_IMPLEMENTED, protocol.NO_UNLOAD)

    def _check_ready(self) -> None:
        if self._service_state.draining:
            raise OpenInferenceError(HTTPStatus.SERVICE_UNAVAILABLE, "the service is ending")

    def _policy(self, request: Request) -> Policy:
        """Return the policy that is served, if it is the model that the path names."""
        policy = self._service_state.policy
        parameters = request.path_params
        self._model.check(policy, parameters["name"], parameters.get("version"))
        return policy

    async def _repository_request(self, request: Request) -> RepositoryRequest:
        body = await self._read(request)
        protocol.check_size(body, self._settings.max_batch)
        try:
            return RepositoryRequest.model_validate_json(body or b"{}")
        except ValidationError as error:
            raise bad_request(explain(error, body)) from error

    async def _read(self, request: Request) -> bytes:
        """Return the request's body as it was before it was compressed."""
        limit = self._settings.max_batch_body + protocol.JSON_HEADROOM
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
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"the inflated body has more than the {limit} bytes that this endpoint takes",
        )
    if not inflater.eof or inflater.unused_data:
        raise bad_request("the compressed body is cut off, or something follows it")
    return inflated
