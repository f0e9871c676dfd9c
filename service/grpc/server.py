"""The gRPC server, on a port of its own: the Open Inference Protocol, health and reflection."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from service.api.open_inference.protocol import JSON_HEADROOM
from service.auth.tls import Tls
from service.grpc import inference_pb2 as pb
from service.grpc import inference_pb2_grpc
from service.grpc.interceptors import AuthInterceptor, CallInterceptor
from service.grpc.servicer import InferenceServicer
from service.observability.request_ids import RequestIds
from service.rollout.reloader import Reloader
from service.settings import Settings, url_host
from service.state import ServiceState

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
SHORTEST_PING_INTERVAL_MS = 500  # that a client may choose
AGE_GRACE_MS = 10_000  # for the calls in flight on a connection that has become old
LARGEST_OPTION = 2**31 - 1  # gRPC takes it for: without end
# What HTTP took of an orchestrator's patience comes before this.
CALL_SECONDS = 5.0  # that a stop waits for calls in flight at most
LINGER_SECONDS = 0.5  # that streams are answered on when the service ends, and answers have to go

log = logging.getLogger("uvicorn.error")


@asynccontextmanager
async def grpc_server(
    settings: Settings, service_state: ServiceState, reloader: Reloader
) -> AsyncIterator[int]:
    """Answer gRPC on the settings' port until the end of the block; gives the port.

    Raises `RuntimeError` where the port cannot be had.
    """
    size_limit = settings.max_batch_body + JSON_HEADROOM
    calls = CallInterceptor(settings, service_state, RequestIds())
    interceptors: list[grpc.aio.ServerInterceptor] = [calls]
    if service_state.keys is not None:
        interceptors.insert(0, AuthInterceptor(service_state.keys, service_state.metrics))
    server = grpc.aio.server(
        interceptors=interceptors,
        options=_options(size_limit, settings.max_connection_age),
    )
    inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(  # type: ignore[no-untyped-call] # made by `make proto`
        InferenceServicer(settings, service_state, reloader), server
    )
    health_servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    reflection.enable_server_reflection(
        (SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME), server
    )

    port = _listen(server, settings, service_state.tls)
    await _set_health(health_servicer, health_pb2.HealthCheckResponse.SERVING)
    loop = asyncio.get_running_loop()

    def on_draining() -> None:
        """Report NOT_SERVING; called by a signal handler."""
        status = health_pb2.HealthCheckResponse.NOT_SERVING
        asyncio.run_coroutine_threadsafe(_set_health(health_servicer, status), loop)

    service_state.on_draining(on_draining)
    await server.start()
    try:
        yield port
    finally:
        await health_servicer.enter_graceful_shutdown()
        await _stop(server, calls, min(settings.shutdown, CALL_SECONDS))


async def _stop(server: grpc.aio.Server, calls: CallInterceptor, seconds: float) -> None:
    """Take nothing new, give calls in flight some seconds, and end what has no end by itself.

    That are the streams, whose callers are told, and the library's own, which watch the health.
    """
    stopping = asyncio.ensure_future(server.stop(seconds))
    await asyncio.wait([stopping], timeout=LINGER_SECONDS)
    calls.end_streams()
    with suppress(TimeoutError):
        await asyncio.wait_for(calls.until_idle(), seconds)
    await server.stop(LINGER_SECONDS)
    await stopping


def _options(size_limit: int, age: int) -> list[tuple[str, int]]:
    """Return the server's options.

    A message has at most `size_limit` bytes. A connection that is `age` seconds old, give or take a
    tenth, takes no further calls; 0: it never ages.
    """
    ageing = [
        ("grpc.max_connection_age_ms", min(age * 1_000, LARGEST_OPTION)),
        ("grpc.max_connection_age_grace_ms", AGE_GRACE_MS),
    ]
    return [
        *(ageing if age else []),
        ("grpc.max_receive_message_length", size_limit),
        # Compressed messages are inflated by the service, which bounds what they become.
        ("grpc.per_message_decompression", 0),
        # Without this a second service could take the same port, and get half of the calls.
        ("grpc.so_reuseport", 0),
        # A client in a control loop pings each second or two, also between its calls, to know
        # of a dead peer in time. gRPC would send it away for pinging twice in five minutes.
        ("grpc.http2.min_ping_interval_without_data_ms", SHORTEST_PING_INTERVAL_MS),
        ("grpc.keepalive_permit_without_calls", 1),
    ]


def _listen(server: grpc.aio.Server, settings: Settings, tls: Tls | None) -> int:
    """Bind the server's port at each address, and return it."""
    port = settings.grpc_port
    for name in settings.host:
        host = url_host(name)
        address = f"{host}:{port}"
        port = (
            server.add_insecure_port(address)
            if tls is None
            else server.add_secure_port(address, _credentials(tls))
        )
        log.info("Listening on %s://%s:%d", "grpc" if tls is None else "grpcs", host, port)
    assert port is not None  # noqa: S101 - the settings have one, else there were no such server
    return port


async def _set_health(servicer: health.aio.HealthServicer, status: int) -> None:
    for name in ("", SERVICE_NAME):
        await servicer.set(name, status)


def _credentials(tls: Tls) -> grpc.ServerCredentials:
    """Return the credentials of a port with TLS. A renewed certificate is for new connections."""

    def configuration() -> grpc.ServerCertificateConfiguration:
        pem = tls.pem
        return grpc.ssl_server_certificate_configuration(
            [(pem.key, pem.certificate)], pem.authority
        )

    return grpc.dynamic_ssl_server_credentials(
        configuration(), configuration, tls.pem.authority is not None
    )
