"""The Open Inference Protocol v2 over gRPC: messages in, messages out, on a port of its own. What a tensor must be is in `tensors`."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from http import HTTPStatus
from time import perf_counter
from typing import TypeAlias

import grpc
from google.protobuf import json_format, message_factory
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from service.api import act as answers
from service.api import open_inference as tensors
from service.api.open_inference import OpenInferenceError, bad_request
from service.api.problems import ProblemError
from service.auth import keys
from service.auth.keys import Keys
from service.auth.tls import Tls
from service.endpoints import GRPC_LABEL, endpoint_of
from service.grpc import inference_pb2 as pb
from service.inference.policy import Float32Array, Inference
from service.observability.metrics import GONE, Metrics
from service.observability.observers import FinishedRequest
from service.observability.request_ids import RequestIds
from service.rest import open_inference as oip
from service.rollout.reloader import Reloader
from service.settings import Settings
from service.state import ServiceState

SERVICE = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
GRACE = 0.5  # seconds that calls under way get when the service ends; the longest takes some milliseconds
CODES = {
    HTTPStatus.BAD_REQUEST: grpc.StatusCode.INVALID_ARGUMENT,
    HTTPStatus.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    HTTPStatus.CONFLICT: grpc.StatusCode.FAILED_PRECONDITION,
    HTTPStatus.PRECONDITION_FAILED: grpc.StatusCode.FAILED_PRECONDITION,
    HTTPStatus.NOT_IMPLEMENTED: grpc.StatusCode.UNIMPLEMENTED,
}

Context: TypeAlias = grpc.aio.ServicerContext
Call = Callable[[Message, Context], Awaitable[Message]]


@asynccontextmanager
async def serving(
    settings: Settings, service_state: ServiceState, reloader: Reloader
) -> AsyncIterator[int]:
    """Answer on the settings' port until the end of the block; gives the port. Raises `RuntimeError` where the port cannot be had."""
    limit = settings.max_batch_body + oip.HEADROOM
    # Without the second option a second service could take the same port, and get half of the calls.
    options = [("grpc.max_receive_message_length", limit), ("grpc.so_reuseport", 0)]
    guards = (
        [] if service_state.keys is None else [Guard(service_state.keys, service_state.metrics)]
    )
    server = grpc.aio.server(interceptors=guards, options=options)
    server.add_generic_rpc_handlers((_handlers(settings, service_state, reloader),))
    status = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    reflection.enable_server_reflection(
        (SERVICE.full_name, health.SERVICE_NAME, reflection.SERVICE_NAME), server
    )
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    place = f"{host}:{settings.grpc_port}"
    port: int = (
        server.add_insecure_port(place)
        if service_state.tls is None
        else server.add_secure_port(place, _credentials(service_state.tls))
    )
    for name in ("", SERVICE.full_name):
        await status.set(name, health_pb2.HealthCheckResponse.SERVING)
    await server.start()
    logging.getLogger("uvicorn.error").info(
        "Listening on %s://%s:%d", "grpc" if service_state.tls is None else "grpcs", host, port
    )
    try:
        yield port
    finally:
        await status.enter_graceful_shutdown()
        await server.stop(GRACE)


def _handlers(
    settings: Settings, service_state: ServiceState, reloader: Reloader
) -> grpc.GenericRpcHandler:
    """Return what answers each method of the service's description by the method of `Calls` with the same name."""
    ids = RequestIds()
    calls = Calls(settings, service_state, reloader, ids)
    handlers = {}
    for method in SERVICE.methods:
        handlers[method.name] = grpc.unary_unary_rpc_method_handler(
            _answered(
                getattr(calls, method.name),
                message_factory.GetMessageClass(method.input_type),
                service_state,
                ids,
            ),
            response_serializer=message_factory.GetMessageClass(
                method.output_type
            ).SerializeToString,
        )
    return grpc.method_handlers_generic_handler(SERVICE.full_name, handlers)


def _answered(
    call: Call, kind: type[Message], service_state: ServiceState, ids: RequestIds
) -> Callable[[bytes, Context], Awaitable[Message]]:
    """Return what answers a request's bytes by the call, with errors turned into the protocol's status codes, and counts it."""
    name = call.__name__
    path = f"/{SERVICE.full_name}/{name}"

    async def answered(body: bytes, context: Context) -> Message:
        started = perf_counter()
        status = GONE
        failure: Exception | None = None
        try:
            answer = await call(kind.FromString(body), context)
            status = HTTPStatus.OK
            return answer
        except DecodeError:
            status = HTTPStatus.BAD_REQUEST
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, f"the request is no {kind.DESCRIPTOR.name}"
            )
        except (OpenInferenceError, ProblemError) as error:
            status, failure = (
                error.status,
                error if error.status == HTTPStatus.INTERNAL_SERVER_ERROR else None,
            )
            await context.abort(CODES.get(error.status, grpc.StatusCode.INTERNAL), str(error))
        except grpc.aio.AbortError:  # the call's own, whose deadline had passed
            status = HTTPStatus.GATEWAY_TIMEOUT
            raise
        except asyncio.CancelledError:
            raise
        except Exception as error:
            status, failure = HTTPStatus.INTERNAL_SERVER_ERROR, error
            await context.abort(
                grpc.StatusCode.INTERNAL, "the service failed to answer; its log says why"
            )
        finally:
            seconds = perf_counter() - started
            service_state.metrics.observe_request(GRPC_LABEL, status, seconds)
            if service_state.observers.wants_all_requests or failure is not None:
                given, inference = _told.get()
                headers = [
                    (key.encode(), value.encode())
                    for key, value in context.invocation_metadata() or ()
                    if isinstance(value, str)
                ]
                service_state.observers.on_request(
                    FinishedRequest(
                        GRPC_LABEL,
                        name,
                        path,
                        status,
                        seconds,
                        given or ids.of(None),
                        headers,
                        inference,
                        failure,
                    )
                )
        raise AssertionError("abort raises")

    return answered


class Guard(grpc.aio.ServerInterceptor):  # type: ignore[misc] # it ships no types
    """Refuses calls without the right key, which is sent as the metadata `authorization`."""

    def __init__(self, known: Keys, metrics: Metrics) -> None:
        self._keys = known
        self._metrics = metrics

    async def intercept_service(
        self,
        go_on: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        call: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        """Return what answers the call."""
        needed = endpoint_of(call.method).scope
        header = next(
            (value for name, value in call.invocation_metadata if name == "authorization"), None
        )
        refusal = self._keys.refusal(None if header is None else header.encode(), needed)
        if needed is None or refusal is None:
            return await go_on(call)
        self._metrics.inc(keys.EVENT, refusal)
        code = (
            grpc.StatusCode.PERMISSION_DENIED
            if refusal == "scope"
            else grpc.StatusCode.UNAUTHENTICATED
        )
        detail = keys.describe(refusal, call.method, needed)

        async def refuse(_: object, context: Context) -> None:
            await context.abort(code, detail)

        return grpc.unary_unary_rpc_method_handler(refuse)


def _credentials(tls: Tls) -> grpc.ServerCredentials:
    """Return what a port with TLS needs; a renewed certificate is for connections from then on."""

    def configuration() -> grpc.ServerCertificateConfiguration:
        pem = tls.pem
        return grpc.ssl_server_certificate_configuration(
            [(pem.key, pem.certificate)], pem.authority
        )

    return grpc.dynamic_ssl_server_credentials(
        configuration(), configuration, tls.pem.authority is not None
    )


# What a call says of its request, its id and the inference; each call runs in a context of its own.
_told: ContextVar[tuple[bytes, Inference | None]] = ContextVar("told", default=(b"", None))


class Calls:
    """The service's methods, named as in its description."""

    def __init__(
        self, settings: Settings, service_state: ServiceState, reloader: Reloader, ids: RequestIds
    ) -> None:
        self._settings = settings
        self._reloader = reloader
        self._service_state = service_state
        self._ids = ids

    async def ServerLive(self, _: pb.ServerLiveRequest, __: Context) -> pb.ServerLiveResponse:  # noqa: N802 - the protocol's name
        """Answer while the process is alive."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, _: pb.ServerReadyRequest, __: Context) -> pb.ServerReadyResponse:  # noqa: N802 - the protocol's name
        """Answer while a self-tested policy is loaded."""
        return pb.ServerReadyResponse(ready=not self._service_state.draining)

    async def ModelReady(self, request: pb.ModelReadyRequest, _: Context) -> pb.ModelReadyResponse:  # noqa: N802 - the protocol's name
        """Say whether this model is served."""
        tensors.check_model(self._service_state.policy, request.name, request.version)
        return pb.ModelReadyResponse(ready=True)

    async def ServerMetadata(
        self, _: pb.ServerMetadataRequest, __: Context
    ) -> pb.ServerMetadataResponse:  # noqa: N802 - the protocol's name
        """Say which server this is."""
        return pb.ServerMetadataResponse(
            name=tensors.SERVER, version=tensors.SERVER_VERSION, extensions=tensors.EXTENSIONS
        )

    async def ModelMetadata(
        self, request: pb.ModelMetadataRequest, _: Context
    ) -> pb.ModelMetadataResponse:  # noqa: N802 - the protocol's name
        """Describe the model's tensors."""
        tensors.check_model(self._service_state.policy, request.name, request.version)
        answer = pb.ModelMetadataResponse()
        json_format.ParseDict(tensors.metadata(self._service_state.policy), answer)
        return answer

    async def ModelConfig(
        self, request: pb.ModelConfigRequest, _: Context
    ) -> pb.ModelConfigResponse:  # noqa: N802 - the protocol's name
        """Describe the model as Triton's own configuration would."""
        tensors.check_model(self._service_state.policy, request.name, request.version)
        answer = pb.ModelConfigResponse()
        json_format.ParseDict(
            {"config": tensors.config(self._service_state.policy, self._settings.max_batch)}, answer
        )
        return answer

    async def ModelInfer(
        self, request: pb.ModelInferRequest, context: Context
    ) -> pb.ModelInferResponse:  # noqa: N802 - the protocol's name
        """Answer some states."""
        request_id = self._ids.of(request.id.encode())
        _told.set((request_id, None))
        remaining = context.time_remaining()
        if remaining is not None and remaining <= 0:
            await context.abort(
                grpc.StatusCode.DEADLINE_EXCEEDED,
                "the deadline had passed before the call was begun",
            )
        policy = self._service_state.policy
        tensors.check_model(policy, request.model_name, request.model_version)
        answers.check_digest(policy, dict(context.invocation_metadata() or ()).get("if-match"))
        names = [tensor.name for tensor in request.inputs]
        given = request.inputs[0] if names else pb.ModelInferRequest.InferInputTensor()
        count = tensors.check_input(names, given.datatype, given.shape, self._settings.max_batch)
        found, inference = tensors.infer(
            policy, _states(request, given, count), [output.name for output in request.outputs]
        )
        _told.set((request_id, inference))
        self._service_state.observers.on_inference(inference, request_id)
        manifest = policy.bundle.manifest
        return pb.ModelInferResponse(
            model_name=manifest.name,
            model_version=manifest.version,
            id=request.id,
            parameters={"digest": pb.InferParameter(string_param=policy.bundle.digest)},
            outputs=[
                pb.ModelInferResponse.InferOutputTensor(
                    name=tensor.name, datatype=tensor.datatype, shape=tensor.shape
                )
                for tensor in found
            ],
            raw_output_contents=[tensor.raw for tensor in found],
        )

    async def RepositoryIndex(
        self, _: pb.RepositoryIndexRequest, __: Context
    ) -> pb.RepositoryIndexResponse:  # noqa: N802 - the protocol's name
        """List the one model."""
        manifest = self._service_state.policy.bundle.manifest
        model = pb.RepositoryIndexResponse.ModelIndex(
            name=manifest.name, version=manifest.version, state="READY"
        )
        return pb.RepositoryIndexResponse(models=[model])

    async def RepositoryModelLoad(  # noqa: N802 - the protocol's name
        self, request: pb.RepositoryModelLoadRequest, _: Context
    ) -> pb.RepositoryModelLoadResponse:
        """Serve the bundle that lies in the folder."""
        tensors.check_model(self._service_state.policy, request.model_name, None)
        if request.parameters:
            raise bad_request(oip.NO_PARAMETERS)
        oip.check_loaded(await self._reloader.load(request.model_name))
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(  # noqa: N802 - the protocol's name
        self, request: pb.RepositoryModelUnloadRequest, _: Context
    ) -> pb.RepositoryModelUnloadResponse:
        """Refuse: the model is served until the service ends."""
        tensors.check_model(self._service_state.policy, request.model_name, None)
        raise OpenInferenceError(HTTPStatus.NOT_IMPLEMENTED, oip.UNLOAD)


def _states(
    request: pb.ModelInferRequest, given: pb.ModelInferRequest.InferInputTensor, count: int
) -> Float32Array:
    """Return the states, (count, 4), from the raw contents or from the typed ones. Raises `OipError`."""
    numbers = given.contents.fp32_contents
    for other in given.parameters:
        if other.startswith("shared_memory"):
            raise bad_request(f"input {given.name!r}: shared memory is not offered here")
    if not request.raw_input_contents:
        return tensors.states_of_numbers(list(numbers), count)
    if numbers:
        raise bad_request(f"input {given.name!r}: has both fp32_contents and raw_input_contents")
    if len(request.raw_input_contents) != 1:
        raise bad_request(
            f"raw_input_contents holds {len(request.raw_input_contents)} tensors, expected 1"
        )
    return tensors.states_of_raw(request.raw_input_contents[0], count)
