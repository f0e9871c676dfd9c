"""An OpenTelemetry span for each request that has ended. Needs the extra `tracing`.

A span is made once the answer has been handed to the server, with the times that the request had,
so no answer waits for its own. A thread of the SDK sends spans to the collector in batches. Where
to, and which, OpenTelemetry's own environment variables say.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from threading import Thread
from time import time_ns
from urllib.parse import urlsplit

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.environment_variables import (
    OTEL_EXPORTER_OTLP_ENDPOINT,
    OTEL_EXPORTER_OTLP_TRACES_ENDPOINT,
)
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer, format_trace_id
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from service.endpoints import GRPC_LABEL, OTHER_LABEL
from service.observability.metric_layout import CLIENT_CLOSED_REQUEST
from service.observability.observers import FinishedRequest, Observers
from service.observability.request_log import RequestLog

LAST_EXPORT_SECONDS = 2.0  # that the last spans get when the service ends, sent or not
_TRACE_HEADERS = (b"traceparent", b"tracestate")  # W3C Trace Context


class TracingError(Exception):
    """Raised when OpenTelemetry's environment variables cannot be used."""


def check_environment() -> None:
    """Check that spans can be made and sent as the environment says. Raises `TracingError`."""
    for variable in (OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, OTEL_EXPORTER_OTLP_ENDPOINT):
        endpoint = os.environ.get(variable)
        if endpoint and not _is_http_url(endpoint):
            raise TracingError(f"{variable} must be an http:// or https:// URL, not {endpoint!r}")

    try:
        _tracer_provider().shutdown()
    except Exception as error:  # the libraries raise whatever they come upon
        raise TracingError(
            f"OpenTelemetry cannot use its environment variables ({error})"
        ) from error


@asynccontextmanager
async def traced(observers: Observers, log: RequestLog, scheme: str) -> AsyncIterator[None]:
    """Make a span of each request until the end of the block.

    `log` is given each request with its trace's id; `scheme`, http or https, is how requests come.
    """
    provider = _tracer_provider()
    tracing = _Tracing(provider.get_tracer("upright"), log, scheme)
    observers.observe_requests(tracing, all_requests=True)
    try:
        yield
    finally:
        # The SDK would wait for half a minute where the collector does not answer.
        shutdown = Thread(target=provider.shutdown, daemon=True)
        shutdown.start()
        await asyncio.to_thread(shutdown.join, LAST_EXPORT_SECONDS)


def _tracer_provider() -> TracerProvider:
    from_environment = OTELResourceDetector().detect().attributes  # may name the service otherwise
    provider = TracerProvider(
        resource=Resource.create({"service.name": "upright", **from_environment}),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def _is_http_url(text: str) -> bool:
    try:
        url = urlsplit(text)
        return url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:  # a port or an IPv6 address that is none
        return False


class _Tracing:
    """Makes the span of a request, and logs the request under its trace's id."""

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
            if name in _TRACE_HEADERS
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


def _name(request: FinishedRequest) -> str:
    if request.endpoint == GRPC_LABEL:
        return request.path.removeprefix("/")
    return (
        request.method
        if request.endpoint == OTHER_LABEL
        else f"{request.method} {request.endpoint}"
    )


def _attributes(request: FinishedRequest, scheme: str) -> dict[str, AttributeValue]:
    """Return the attributes of the semantic conventions for HTTP and for RPC, and our own."""
    attributes: dict[str, AttributeValue] = {"upright.request_id": request.request_id.decode()}
    if request.endpoint == GRPC_LABEL:
        attributes |= {"rpc.system.name": "grpc", "rpc.method": request.path.removeprefix("/")}
    else:
        attributes |= {
            "http.request.method": request.method,
            "url.path": request.path,
            "url.scheme": scheme,
        }
        if request.endpoint != OTHER_LABEL:
            attributes["http.route"] = request.endpoint

    if request.status != CLIENT_CLOSED_REQUEST:
        attributes["http.response.status_code"] = request.status
    if request.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        attributes["error.type"] = str(request.status)

    if (inference := request.inference) is not None:
        attributes["upright.digest"] = inference.policy.bundle.digest
        attributes["upright.inference_seconds"] = inference.seconds
        attributes["upright.states"] = len(inference.states)
        if len(inference.actions) == 1:
            attributes["upright.action"] = inference.policy.bundle.manifest.actions[
                inference.actions[0]
            ]
    return attributes
