"""Traces: a request that has ended in, an OpenTelemetry span of it out, on the way to a collector. Needs the extra `tracing`.

A span is made when the answer has been handed to the server, with the times that the request had, so no answer waits for its own; a thread
of the SDK sends them away in batches. Where to and which is said by OpenTelemetry's own environment variables.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from threading import Thread
from time import time_ns

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer, format_trace_id
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from service.endpoints import GRPC_LABEL, OTHER_LABEL
from service.observability.metrics import GONE
from service.observability.observers import FinishedRequest, Observers
from service.observability.request_log import RequestLog

PATIENCE = 2.0  # seconds that the last spans get when the service ends, whether or not the collector takes them


@asynccontextmanager
async def traced(observers: Observers, log: RequestLog, scheme: str) -> AsyncIterator[None]:
    """Make a span of each request, which came by `scheme`, until the end of the block; hand the request to `log` with its trace's id."""
    given = (
        OTELResourceDetector().detect().attributes
    )  # the variables may name the service otherwise
    provider = TracerProvider(
        resource=Resource.create({"service.name": "upright", **given}), shutdown_on_exit=False
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    tracing = _Tracing(provider.get_tracer("upright"), log, scheme)
    observers.observe_requests(tracing, all_requests=True)
    try:
        yield
    finally:
        # The SDK would wait for half a minute where the collector does not answer.
        end = Thread(target=provider.shutdown, daemon=True)
        end.start()
        await asyncio.to_thread(end.join, PATIENCE)


class _Tracing:
    """Makes the spans."""

    def __init__(self, tracer: Tracer, log: RequestLog, scheme: str) -> None:
        self._tracer = tracer
        self._log = log
        self._scheme = scheme
        self._propagator = TraceContextTextMapPropagator()

    def __call__(self, request: FinishedRequest) -> None:
        """Trace and log the request."""
        ended = time_ns()
        carrier = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in request.headers
            if name in _CARRIED
        }
        parent = self._propagator.extract(carrier, Context()) if carrier else Context()
        span = self._tracer.start_span(
            _name(request), parent, SpanKind.SERVER, start_time=ended - int(request.seconds * 1e9)
        )
        if span.is_recording():  # most are not, where only a part is sampled
            span.set_attributes(_attributes(request, self._scheme))
            if request.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                span.set_status(Status(StatusCode.ERROR))
            span.end(ended)
        self._log(request, format_trace_id(span.get_span_context().trace_id))


_CARRIED = (b"traceparent", b"tracestate")


def _name(request: FinishedRequest) -> str:
    if request.endpoint == GRPC_LABEL:
        return request.path.removeprefix("/")
    return (
        request.method
        if request.endpoint == OTHER_LABEL
        else f"{request.method} {request.endpoint}"
    )


def _attributes(request: FinishedRequest, scheme: str) -> dict[str, AttributeValue]:
    """Return the attributes, named by the semantic conventions for HTTP and for RPC, and our own."""
    found: dict[str, AttributeValue] = {"upright.request_id": request.request_id.decode()}
    if request.endpoint == GRPC_LABEL:
        found |= {"rpc.system.name": "grpc", "rpc.method": request.path.removeprefix("/")}
    else:
        found |= {
            "http.request.method": request.method,
            "url.path": request.path,
            "url.scheme": scheme,
        }
        if request.endpoint != OTHER_LABEL:
            found["http.route"] = request.endpoint
    if request.status != GONE:
        found["http.response.status_code"] = request.status
    if request.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        found["error.type"] = str(request.status)
    if (inference := request.inference) is not None:
        found["upright.digest"] = inference.policy.bundle.digest
        found["upright.inference_seconds"] = inference.seconds
        found["upright.states"] = len(inference.states)
        if len(inference.actions) == 1:
            found["upright.action"] = inference.policy.bundle.manifest.actions[inference.actions[0]]
    return found
