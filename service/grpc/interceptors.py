"""What happens around every gRPC call: keys, parsing, ids, counting, logging, and errors as codes.

A call ends by its code and details being set, never by `context.abort`: that raises an exception
which holds the request in memory, in a reference cycle, until the garbage collector runs.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from time import perf_counter
from typing import NamedTuple, TypeAlias, cast

import grpc
from google.protobuf.message import DecodeError, Message

from service.api.message_rate import MessageRate
from service.api.open_inference import protocol
from service.api.open_inference.protocol import JSON_HEADROOM
from service.auth import keys
from service.auth.keys import Keys
from service.endpoints import GRPC_LABEL, INFERENCE_SERVICE, Scope, endpoint_of
from service.errors import ServiceError
from service.grpc import inference_pb2 as pb
from service.grpc.known_requests import KnownRequests
from service.grpc.messages import parse
from service.inference.policy import Inference
from service.inference.protobuf import varint
from service.observability.metric_layout import CLIENT_CLOSED_REQUEST
from service.observability.metrics import Metrics
from service.observability.observers import FinishedRequest
from service.observability.request_ids import RequestIds
from service.settings import Settings
from service.state import ServiceState

CODES = {
    HTTPStatus.BAD_REQUEST: grpc.StatusCode.INVALID_ARGUMENT,
    HTTPStatus.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    HTTPStatus.CONFLICT: grpc.StatusCode.FAILED_PRECONDITION,
    HTTPStatus.PRECONDITION_FAILED: grpc.StatusCode.FAILED_PRECONDITION,
    HTTPStatus.UNPROCESSABLE_ENTITY: grpc.StatusCode.OUT_OF_RANGE,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    HTTPStatus.NOT_IMPLEMENTED: grpc.StatusCode.UNIMPLEMENTED,
    HTTPStatus.TOO_MANY_REQUESTS: grpc.StatusCode.RESOURCE_EXHAUSTED,
    HTTPStatus.GATEWAY_TIMEOUT: grpc.StatusCode.DEADLINE_EXCEEDED,
}

MODEL_INFER = f"{INFERENCE_SERVICE}/ModelInfer"
MODEL_STREAM_INFER = f"{INFERENCE_SERVICE}/ModelStreamInfer"

Context: TypeAlias = grpc.aio.ServicerContext
Continuation: TypeAlias = Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]]
Method: TypeAlias = Callable[[Message, "Call"], Awaitable[Message]]


class Call:
    """One call, as a method of the servicer sees it."""

    def __init__(self, context: Context, ids: RequestIds) -> None:
        self.metadata: dict[str, str | bytes] = dict(context.invocation_metadata() or ())
        self._context = context
        self._ids = ids
        self._request_id = b""
        self.id = ""  # of the request, as the caller wrote it
        self.inference: Inference | None = None

    @property
    def request_id(self) -> bytes:
        """The caller's id for the request, or one that was made for it."""
        if not self._request_id:
            self._request_id = self._ids.of(None)
        return self._request_id

    @property
    def authorization(self) -> bytes | None:
        """The key that the caller presented."""
        value = self.metadata.get("authorization")
        return value.encode() if isinstance(value, str) else value

    def name(self, request_id: str) -> None:
        """Take the caller's id for the request, which is logged if it can be."""
        self.id = request_id
        self._request_id = self._ids.of(request_id.encode())

    def note_inference(self, inference: Inference) -> None:
        """Note the inference behind the answer, for the log and the traces."""
        self.inference = inference

    def check_deadline(self) -> None:
        """Refuse a call whose caller does not wait any more. Raises `ServiceError`."""
        remaining = self._context.time_remaining()
        if remaining is not None and remaining <= 0:
            raise ServiceError(
                HTTPStatus.GATEWAY_TIMEOUT, "the deadline had passed before the call was begun"
            )


class RefusedCall(NamedTuple):
    """Why a call, or a message of a stream, is not answered."""

    status: HTTPStatus
    text: str


class CallInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc] # it ships no types
    """Parses the requests of the inference service, answers errors, and reports finished calls.

    A method of the servicer answers one message; of a stream it is called for each in turn.
    """

    def __init__(self, settings: Settings, service_state: ServiceState, ids: RequestIds) -> None:
        self._settings = settings
        self._service_state = service_state
        self._ids = ids
        self._handlers: dict[str, grpc.RpcMethodHandler] = {}
        self._streams: set[asyncio.Task[None]] = set()  # whose callers may stay for ever
        self._has_ended_streams = False
        self._in_flight = 0  # calls that are being answered, streams left out
        self._idle = asyncio.Event()
        self._known = {
            path: KnownRequests(strict=settings.refuse_out_of_range)
            for path in (MODEL_INFER, MODEL_STREAM_INFER)
        }

    async def intercept_service(
        self, continuation: Continuation, details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler:
        """Return the handler of a call."""
        path = details.method
        if path in self._handlers:
            return self._handlers[path]
        handler = await continuation(details)
        if not path.startswith(f"{INFERENCE_SERVICE}/"):
            return handler  # health and reflection are the library's own
        if handler is None:
            return _not_offered(path)

        wrap = self._streaming_handler if handler.request_streaming else self._unary_handler
        self._handlers[path] = wrap(handler, path)
        return self._handlers[path]

    def end_streams(self) -> None:
        """End the streams, since the service does: their callers are told UNAVAILABLE."""
        self._has_ended_streams = True
        for task in self._streams:
            task.cancel()

    async def until_idle(self) -> None:
        """Wait until no call is being answered, streams left out."""
        while self._in_flight:
            self._idle.clear()
            await self._idle.wait()

    def _unary_handler(self, handler: grpc.RpcMethodHandler, path: str) -> grpc.RpcMethodHandler:
        async def answer(body: bytes, context: Context) -> bytes | None:
            if path == MODEL_INFER and _is_unconditional(context):
                known = self._answer_known(path, body, context)
                if known is not None:
                    return known

            call = Call(context, self._ids)
            self._in_flight += 1
            try:
                with self._counted("upright_in_flight", "grpc"):
                    response, refusal = await self._answer(handler, path, body, call)
            finally:
                self._in_flight -= 1
                if not self._in_flight:
                    self._idle.set()
            if refusal is not None:
                _end_with(refusal, context)
            return None if response is None else response.SerializeToString()

        return grpc.unary_unary_rpc_method_handler(answer)

    def _streaming_handler(
        self, handler: grpc.RpcMethodHandler, path: str
    ) -> grpc.RpcMethodHandler:
        async def answer(_: object, context: Context) -> None:
            task = cast("asyncio.Task[None]", asyncio.current_task())
            self._streams.add(task)
            try:
                with self._counted("upright_connections", "grpc_stream"):
                    await self._answer_stream(handler, path, context)
            except asyncio.CancelledError:
                if not self._has_ended_streams:
                    raise
                context.set_code(grpc.StatusCode.UNAVAILABLE)
                context.set_details("the service stops")
            finally:
                self._streams.discard(task)

        return grpc.stream_stream_rpc_method_handler(answer)

    @contextmanager
    def _counted(self, gauge: str, value: str) -> Iterator[None]:
        """Count what goes on in the block."""
        metrics = self._service_state.metrics
        metrics.add(gauge, value, 1)
        try:
            yield
        finally:
            metrics.add(gauge, value, -1)

    async def _answer_stream(
        self, handler: grpc.RpcMethodHandler, path: str, context: Context
    ) -> None:
        """Answer message by message until the caller has no more, or its key is taken away."""
        scope = endpoint_of(path).scope
        rate = MessageRate(self._settings.stream_rate)
        is_unconditional = _is_unconditional(context)
        authorization = Call(context, self._ids).authorization

        while (body := await context.read()) is not grpc.aio.EOF:
            refused = self._refused_key(authorization, scope)
            if refused is not None and scope is not None:
                _refuse_key(context, refused, path, scope)
                return

            is_too_fast = rate.is_exceeded()
            if is_unconditional and not is_too_fast:
                known = self._answer_known(path, body, context)
                if known is not None:
                    await context.write(_as_stream_response(known))
                    continue

            call = Call(context, self._ids)
            response, refusal = await self._answer(
                handler, path, body, call, exceeded_rate=rate.limit if is_too_fast else None
            )
            if refusal is not None:
                response = pb.ModelStreamInferResponse(
                    error_message=refusal.text, infer_response=pb.ModelInferResponse(id=call.id)
                )
            assert response is not None  # noqa: S101 - there is an answer or a refusal
            await context.write(response.SerializeToString())

    def _answer_known(self, path: str, body: bytes, context: Context) -> bytes | None:
        """Return the bytes of an answer to a request whose like was answered before."""
        started = perf_counter()
        answered = self._known[path].answer(self._service_state.policy, body)
        if answered is None:
            return None

        response, request_id, inference = answered
        observers = self._service_state.observers
        name = self._ids.of(request_id)
        observers.on_inference(inference, name)
        seconds = perf_counter() - started
        observers.metrics.observe_request(GRPC_LABEL, HTTPStatus.OK, seconds)
        if observers.wants_all_requests:
            call = Call(context, self._ids)
            call.name(request_id.decode())
            call.note_inference(inference)
            self._report_finished(path, HTTPStatus.OK, seconds, call, None)
        return response

    def _learn(
        self, path: str, body: bytes, request: Message, response: Message, call: Call
    ) -> None:
        """Keep in mind how a request was answered."""
        known = self._known.get(path)
        if known is None or call.inference is None or not isinstance(request, pb.ModelInferRequest):
            return
        if isinstance(response, pb.ModelStreamInferResponse):
            response = response.infer_response
        if isinstance(response, pb.ModelInferResponse):
            known.learn(call.inference.policy, body, request, response, call.inference)

    def _refused_key(self, authorization: bytes | None, scope: Scope | None) -> keys.Refusal | None:
        """Return why a caller's key is not enough any more, and count that; None where it is."""
        known = self._service_state.keys
        refusal = None if known is None else known.refusal(authorization, scope)
        if refusal is not None:
            self._service_state.metrics.inc(keys.EVENT, refusal)
        return refusal

    async def _answer(
        self,
        handler: grpc.RpcMethodHandler,
        path: str,
        body: bytes,
        call: Call,
        *,
        exceeded_rate: int | None = None,
    ) -> tuple[Message | None, RefusedCall | None]:
        """Return the answer to a request's bytes, or why there is none."""
        started = perf_counter()
        status, failure = CLIENT_CLOSED_REQUEST, None
        try:
            if exceeded_rate is not None:
                raise protocol.too_fast(exceeded_rate)
            request = parse(
                handler.request_deserializer,
                body,
                self._settings.max_batch_body + JSON_HEADROOM,
                self._settings.max_batch,
            )
            response: Message = await (handler.unary_unary or handler.stream_stream)(request, call)
            status = HTTPStatus.OK
            self._learn(path, body, request, response, call)
            return response, None
        except asyncio.CancelledError:
            raise
        except Exception as error:
            refusal = _refusal(error, path)
            status = refusal.status
            if status == HTTPStatus.INTERNAL_SERVER_ERROR:
                failure = error
            return None, refusal
        finally:
            self._report(path, status, perf_counter() - started, call, failure)
            # An error holds this frame, by its traceback: no name here may hold it in turn.
            failure = None

    def _report(
        self, path: str, status: int, seconds: float, call: Call, failure: Exception | None
    ) -> None:
        observers = self._service_state.observers
        observers.metrics.observe_request(GRPC_LABEL, status, seconds)
        if observers.wants_all_requests or failure is not None:
            self._report_finished(path, status, seconds, call, failure)

    def _report_finished(
        self, path: str, status: int, seconds: float, call: Call, failure: Exception | None
    ) -> None:
        headers = [
            (name.encode(), value.encode())
            for name, value in call.metadata.items()
            if isinstance(value, str)
        ]
        self._service_state.observers.on_request(
            FinishedRequest(
                GRPC_LABEL,
                path.rpartition("/")[2],
                path,
                status,
                seconds,
                call.request_id,
                headers,
                call.inference,
                failure,
            )
        )


def _end_with(refusal: RefusedCall, context: Context) -> None:
    """End a call with an error."""
    context.set_code(CODES.get(refusal.status, grpc.StatusCode.INTERNAL))
    context.set_details(refusal.text)


def _is_unconditional(context: Context) -> bool:
    """Return whether any bundle may answer a call, and its caller still waits."""
    for name, _ in context.invocation_metadata() or ():
        if name == "if-match":
            return False
    remaining = context.time_remaining()
    return remaining is None or remaining > 0


def _as_stream_response(response: bytes) -> bytes:
    """Return the bytes of a `ModelStreamInferResponse` that holds an answer's (its field 2)."""
    return b"\x12" + varint(len(response)) + response


def _not_offered(path: str) -> grpc.RpcMethodHandler:
    """Return the handler of a method that other servers of the protocol have."""

    async def refuse(_: object, context: Context) -> None:
        method = path.rpartition("/")[2][:100]
        context.set_code(grpc.StatusCode.UNIMPLEMENTED)
        context.set_details(f"{method} is not offered here")

    return grpc.unary_unary_rpc_method_handler(refuse)


def _refusal(error: Exception, path: str) -> RefusedCall:
    """Return what the caller is told of an error."""
    match error:
        case ServiceError():
            told: ServiceError = error
        case DecodeError():
            message = path.rpartition("/")[2].replace("Stream", "")  # both ways take the same
            told = protocol.bad_request(f"the request is no {message}Request")
        case _:
            told = protocol.internal_error()
    return RefusedCall(told.status, str(told))


class AuthInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc] # it ships no types
    """Refuses calls without the right key, which is sent as the metadata `authorization`."""

    def __init__(self, keys: Keys, metrics: Metrics) -> None:
        self._keys = keys
        self._metrics = metrics

    async def intercept_service(
        self, continuation: Continuation, details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler:
        """Return the handler of a call, or one that refuses it."""
        scope = endpoint_of(details.method).scope
        header = next(
            (value for name, value in details.invocation_metadata if name == "authorization"), None
        )
        refusal = self._keys.refusal(None if header is None else header.encode(), scope)
        if scope is None or refusal is None:
            return await continuation(details)

        self._metrics.inc(keys.EVENT, refusal)

        async def refuse(_: object, context: Context) -> None:
            _refuse_key(context, refusal, details.method, scope)

        handler = await continuation(details)
        if handler is not None and handler.request_streaming:  # which may never send a message
            return grpc.stream_stream_rpc_method_handler(refuse)
        return grpc.unary_unary_rpc_method_handler(refuse)


def _refuse_key(context: Context, refusal: keys.Refusal, path: str, scope: Scope) -> None:
    """End a call whose key is not the right one."""
    is_known = refusal == "scope"
    context.set_code(
        grpc.StatusCode.PERMISSION_DENIED if is_known else grpc.StatusCode.UNAUTHENTICATED
    )
    context.set_details(keys.describe(refusal, path, scope))
