"""What starts and stops with the application: tracing, the record, reloads and gRPC."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from service.observability.request_log import RequestLog
from service.rollout.reloader import Reloader
from service.rollout.triggers import reload_triggers
from service.settings import Settings
from service.state import ServiceState


@asynccontextmanager
async def lifespan(
    settings: Settings, service_state: ServiceState, reloader: Reloader, _: object
) -> AsyncIterator[None]:
    """Run what lives as long as the application does. What starts first stops last."""
    log = RequestLog(
        lambda: service_state.policy.bundle.digest,
        every=settings.log_requests,
        states=settings.log_states,
    )
    async with AsyncExitStack() as stack:
        if settings.tracing:
            from service.observability import (
                tracing,  # needs the extra, which most have not installed
            )

            await stack.enter_async_context(
                tracing.traced(
                    service_state.observers, log, "http" if settings.tls_cert is None else "https"
                )
            )
        else:
            service_state.observers.observe_requests(log, all_requests=settings.log_requests)
        if settings.record is not None:
            from service.records.recorder import (
                recording,  # needs SQLite, which takes time to import
            )

            stack.enter_context(recording(settings.record, settings, service_state.observers))
        await stack.enter_async_context(reload_triggers(settings, service_state, reloader))
        await stack.enter_async_context(grpc_endpoint(settings, service_state, reloader))
        yield


@asynccontextmanager
async def grpc_endpoint(
    settings: Settings, service_state: ServiceState, reloader: Reloader
) -> AsyncIterator[None]:
    """Answer gRPC too for as long as the application runs, if the settings name a port for it."""
    if settings.grpc_port is None:
        yield
        return
    from service.grpc.server import grpc_server  # needs the extra, which most have not installed

    async with grpc_server(settings, service_state, reloader):
        yield
