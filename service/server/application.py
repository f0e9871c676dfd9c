"""The whole service as one ASGI application, put together from its parts."""

from dataclasses import dataclass
from functools import partial

from starlette.types import ASGIApp, Receive, Scope, Send

from service.auth.browsers import AllowedHosts
from service.inference.policy import Policy
from service.observability.metrics import Metrics
from service.observability.request_ids import RequestIds
from service.rest.app import create_app
from service.rest.middleware.requests import ConcurrencyLimiter, RequestMiddleware
from service.rest.stream import Stream
from service.rollout.bundle_store import BundleStore
from service.rollout.reloader import Reloader
from service.server.fast_path import FastPath
from service.server.lifespan import lifespan
from service.server.read_scheduler import ReadScheduler
from service.server.write_batcher import WriteBatcher
from service.settings import Settings
from service.state import ServiceState


@dataclass(frozen=True)
class Application:
    """The ASGI path, which is called, and what the protocols answer by when they do not need it."""

    app: ASGIApp
    fast_path: FastPath
    stream: Stream
    limiter: ConcurrencyLimiter
    allowed_hosts: AllowedHosts
    write_batcher: WriteBatcher
    read_scheduler: ReadScheduler
    reloader: Reloader
    metrics: Metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request on the ASGI path."""
        await self.app(scope, receive, send)


def create_application(
    settings: Settings,
    service_state: ServiceState,
    *,
    shadow: Policy | None = None,
    bundle_store: BundleStore | None = None,
) -> Application:
    """Return the application of one process."""
    ids = RequestIds()
    reloader = Reloader(settings, service_state, shadow, bundle_store)
    stream = Stream(settings, service_state, ids)
    allowed_hosts = AllowedHosts(settings)
    limiter = ConcurrencyLimiter(settings.max_concurrent_requests, service_state.metrics)
    app = create_app(
        settings,
        service_state,
        reloader,
        stream,
        partial(lifespan, settings, service_state, reloader),
        allowed_hosts,
    )
    return Application(
        app=RequestMiddleware(app, service_state, ids, limiter),
        fast_path=FastPath(settings, service_state, ids),
        stream=stream,
        limiter=limiter,
        allowed_hosts=allowed_hosts,
        write_batcher=WriteBatcher(),
        reloader=reloader,
        read_scheduler=ReadScheduler(),
        metrics=service_state.metrics,
    )
