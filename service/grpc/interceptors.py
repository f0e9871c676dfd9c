"""What happens around every gRPC call: keys, parsing, ids, counting, logging, and errors as codes.

A call ends by its code and details being set, never by `context.abort`: that raises an exception
which holds the request in memory, in a reference cycle, until the garbage collector runs.
"""

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from time import perf_counter
from typing import TypeAlias

import grpc
from google.protobuf.message import DecodeError, Message

from service.api import open_inference
from service.auth import keys
from service.auth.keys import Keys
from service.endpoints import GRPC_LABEL, INFERENCE_SERVICE, endpoint_of
from service.errors import ServiceError
from service.grpc.messages import parse
from service.inference.policy import Inference
from service.observability.metric_layout import CLIENT_CLOSED_REQUEST
from service.observability.metrics import Metrics
from service.observability.observers import FinishedRequest
from service.observability.request_ids import RequestIds
from service.state import ServiceState

CODES = {
    HTTPStatus.BAD_REQUEST: grpc.StatusCode.INVALID_ARGUMENT,
    HTTPStatus.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    HTTPStatus.CONFLICT: grpc.StatusCode.FAILED_PRECONDITION,
    HTTPStatus.PRECONDITION_FAILED: grpc.StatusCode.FAILED_PRECONDITION,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    HTTPStatus.NOT_IMPLEMENTED: grpc.StatusCode.UNIMPLEMENTED,
    HTTPStatus.GATEWAY_TIMEOUT: grpc.StatusCode.DEADLINE_EXCEEDED,
}

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
        self.inference: Inference | None = None

    @property
    def request_id(self) -> bytes:
        """The caller's id for the request, or one that was made for it."""
        if not self._request_id:
            self._request_id = self._ids.of(None)
        return self._request_id

    def name(self, request_id: str) -> None:
        """Take the caller's id for the request, if it can be echoed."""
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


class CallInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc] # it ships no types
    """Parses the requests of the inference service, answers errors, and reports finished calls."""

    def __init__(
        self, service_state: ServiceState, ids: RequestIds, size_limit: int, max_batch: int
    ) -> None:
        self._service_state = service_state
        self._ids = ids
        self._size_limit = size_limit
        self._max_batch = max_batch

    async def intercept_service(
        self, continuation: Continuation, details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler:
        """Return the handler of a call."""
        handler = await continuation(details)
        if handler is None or not details.method.startswith(f"{INFERENCE_SERVICE}/"):
            return handler  # health and reflection are the library's own

        async def answer(body: bytes, context: Context) -> Message | None:
            return await self._answer(handler, details.method, body, context)

        return grpc.unary_unary_rpc_method_handler(
            answer, response_serializer=handler.response_serializer
        )

    async def _answer(
        self, handler: grpc.RpcMethodHandler, path: str, body: bytes, context: Context
    ) -> Message | None:
        """Return the answer to a request's bytes; None where the call ends with an error."""
        started = perf_counter()
        call = Call(context, self._ids)
        status, failure = CLIENT_CLOSED_REQUEST, None
        try:
            request = parse(handler.request_deserializer, body, self._size_limit, self._max_batch)
            response: Message = await handler.unary_unary(request, call)
            status = HTTPStatus.OK
            return response
        except asyncio.CancelledError:
            raise
        except Exception as error:
            status = _end_with(error, path, context)
            if status == HTTPStatus.INTERNAL_SERVER_ERROR:
                failure = error
            return None
        finally:
            self._report(path, status, perf_counter() - started, call, failure)
            # An error holds this frame, by its traceback: no name here may hold it in turn.
            failure = None

    def _report(
        self, path: str, status: int, seconds: float, call: Call, failure: Exception | None
    ) -> None:
        observers = self._service_state.observers
        observers.metrics.observe_request(GRPC_LABEL, status, seconds)
        if not observers.wants_all_requests and failure is None:
            return
        headers = [
            (name.encode(), value.encode())
            for name, value in call.metadata.items()
            if isinstance(value, str)
        ]
        observers.on_request(
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


def _end_with(error: Exception, path: str, context: Context) -> HTTPStatus:
    """End a call with an error; return the status that stands for its code."""
    told = _service_error(error, path)
    context.set_code(CODES.get(told.status, grpc.StatusCode.INTERNAL))
    context.set_details(str(told))
    return told.status


def _service_error(error: Exception, path: str) -> ServiceError:
    """Return what the caller is told of an error."""
    match error:
        case ServiceError():
            return error
        case DecodeError():
            method = path.rpartition("/")[2]
            return open_inference.bad_request(f"the request is no {method}Request")
        case _:
            return open_inference.internal_error()


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
        code = (
            grpc.StatusCode.PERMISSION_DENIED
            if refusal == "scope"
            else grpc.StatusCode.UNAUTHENTICATED
        )
        text = keys.describe(refusal, details.method, scope)

        async def refuse(_: bytes, context: Context) -> None:
            context.set_code(code)
            context.set_details(text)

        return grpc.unary_unary_rpc_method_handler(refuse)
