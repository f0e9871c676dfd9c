"""The server: an application and listening sockets in, answers until it is told to stop, and then no request lost. One process.

SIGTERM: 1. `/health/ready` says 503 and everything is answered as before, for `drain` seconds, in which a load balancer turns away.
2. Nobody listens any more, and each connection is closed by its next answer, or after a second in which it asked nothing.
3. Requests under way get `shutdown` seconds. SIGINT begins with 2; a second signal ends at once.
"""

import asyncio
import resource
import signal
import socket
from time import monotonic, perf_counter
from types import FrameType

import uvicorn

from service.inference.policy import Policy
from service.observability import logging as logs
from service.rest.app import create_app
from service.rollout.bundle_store import Shelf
from service.rollout.warm_up import warm_up
from service.server.http_protocol import Protocol
from service.server.memory import Memory
from service.server.websocket_protocol import StreamProtocol
from service.settings import Settings
from service.state import ServiceState

LINGER_SECONDS = 1.0  # that an idle connection stays for a request that is already on its way
SWEEPS = 10  # ticks of the server, of a tenth of a second, between two looks at what every connection waits for


def serve(
    settings: Settings,
    service_state: ServiceState,
    listeners: list[socket.socket],
    *,
    shadow: Policy | None = None,
    store: Shelf | None = None,
) -> bool:
    """Serve until told to stop; returns whether it could begin."""
    # Each connection takes a file, and the usual soft limit of 1,024 is a small service's.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    config = uvicorn.Config(
        create_app(settings, service_state, shadow=shadow, bundle_store=store),
        loop="uvloop",
        http=Protocol,
        ws=StreamProtocol,
        ws_max_size=settings.max_body,
        ws_per_message_deflate=False,  # an answer is 200 bytes: compressing costs more than it saves
        proxy_headers=False,  # nothing here asks who the client is, and looking would cost every request
        log_config=logs.configuration(settings.log_format),
        access_log=False,
        server_header=False,
        timeout_keep_alive=settings.keep_alive,
        timeout_graceful_shutdown=settings.shutdown,
        ssl_context_factory=service_state.tls,
    )
    server = Server(config, settings, service_state)
    warm_up(service_state.policy)
    server.run(sockets=listeners)
    return server.started


class Server(uvicorn.Server):
    """uvicorn's server, which drains before it stops, and gives up connections that do not move."""

    def __init__(
        self, config: uvicorn.Config, settings: Settings, service_state: ServiceState
    ) -> None:
        super().__init__(config)
        self._settings = settings
        self._service_state = service_state
        self._stop_at: float | None = None
        self._memory = Memory()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - a signal handler is given it
        """Begin to drain at the first signal; end at once at the second."""
        if self._stop_at is not None:
            self.should_exit = self.force_exit = True
            return
        drain = self._settings.drain if sig == signal.SIGTERM else 0.0
        self._stop_at = monotonic() + drain
        self._service_state.start_draining()

    async def on_tick(self, counter: int) -> bool:
        """Do what is due, a tenth of a second after the last time; returns whether to stop."""
        if counter % SWEEPS == 0:
            now = perf_counter()
            for connection in list(self.server_state.connections):
                if isinstance(connection, Protocol):
                    connection.check(now, self._settings)
            self._memory.tidy(len(self.server_state.connections))
        if self._stop_at is not None and monotonic() >= self._stop_at:
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop to listen, let the clients go, then end."""
        for server in self.servers:
            server.close()
        for connection in self.server_state.connections:
            if isinstance(connection, Protocol):
                connection.retire()
        until = monotonic() + LINGER_SECONDS
        while self.server_state.connections and monotonic() < until and not self.force_exit:  # noqa: ASYNC110 - uvicorn's set tells nobody
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)
        if self.force_exit:  # uvicorn leaves it out then
            await self.lifespan.shutdown()
