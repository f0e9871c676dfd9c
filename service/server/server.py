"""uvicorn as the service runs it: one process that answers until a signal, and loses no request.

SIGTERM stops it in three steps.
1. `/health/ready` says 503 and everything is answered as before, for `drain` seconds, in which a
   load balancer finds other servers.
2. Nobody listens any more. Each connection is closed by its next answer, or after a second without
   a request.
3. Requests in flight get `shutdown` seconds.
SIGINT begins with step 2. A second signal ends the service at once, unless it comes within a moment
of the first: a service manager may tell the process group and its parent, and both are the same
wish.
"""

import asyncio
import logging
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from time import monotonic, perf_counter
from types import FrameType
from typing import cast

import uvicorn
from uvicorn.server import HANDLED_SIGNALS

from service.inference.policy import Policy
from service.observability import logging as service_logging
from service.observability import systemd
from service.observability.run_file import RunFile
from service.rollout.bundle_store import BundleStore
from service.rollout.warm_up import warm_up
from service.server.application import Application, create_application
from service.server.http.protocol import HttpProtocol
from service.server.memory import MemoryTrimmer
from service.server.sockets import (
    SocketFile,
    accept_waiting,
    address,
    copies_to_accept_from,
    find_socket_file,
    refuse_new,
)
from service.server.websocket_protocol import WebSocketProtocol
from service.settings import Settings
from service.state import ServiceState

HANDSHAKE_SECONDS = 0.02  # in which connections that have begun are made
IDLE_LINGER_SECONDS = 1.0  # that an idle connection stays for a request that is already on its way
TICKS_BETWEEN_CHECKS = 10  # of a tenth of a second each
# After which a thread that computes lets the event loop's have the interpreter: metrics, reloads
# and the record have threads of their own. Python's own 5 ms are a quarter of a step at 50 Hz.
SWITCH_SECONDS = 0.0002
SAME_STOP_SECONDS = 1.0  # in which further signals are the same wish to stop
PAGE = "/"  # what a person who starts the service can open in a browser

log = logging.getLogger("uvicorn.error")


def serve(
    settings: Settings,
    service_state: ServiceState,
    listeners: list[socket.socket],
    *,
    shadow: Policy | None = None,
    bundle_store: BundleStore | None = None,
) -> bool:
    """Serve until a signal to stop; return False where the service could not begin."""
    # Each connection takes a file, and the usual soft limit of 1,024 is a small service's.
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))

    sys.setswitchinterval(SWITCH_SECONDS)
    application = create_application(
        settings, service_state, shadow=shadow, bundle_store=bundle_store
    )
    server = Server(configuration(settings, service_state, application), settings, service_state)
    warm_up(service_state.policy)
    server.run(sockets=listeners)
    if not application.reloader.has_ended:  # Python would wait for its thread for ever
        os._exit(0)
    return server.started or server.is_told_to_stop


def configuration(
    settings: Settings, service_state: ServiceState, application: Application
) -> uvicorn.Config:
    """Return uvicorn's configuration."""
    return uvicorn.Config(
        application,
        loop="uvloop",
        http=partial(HttpProtocol, application),  # type: ignore[arg-type] # uvicorn calls it as it would the class
        ws=partial(WebSocketProtocol, application),  # type: ignore[arg-type] # as above
        ws_max_size=settings.max_body,
        ws_per_message_deflate=False,  # compressing 200 bytes costs more than it saves
        proxy_headers=False,  # nothing here asks who the client is, and looking costs every request
        log_config=service_logging.configuration(settings.log_format),
        access_log=False,
        server_header=False,
        workers=1,  # by itself uvicorn reads WEB_CONCURRENCY, and fails where that is no number
        timeout_keep_alive=settings.keep_alive,
        timeout_graceful_shutdown=settings.shutdown,
        ssl_context_factory=service_state.tls,
    )


class Server(uvicorn.Server):
    """uvicorn's server, which drains before it stops, and ends connections past a time-out."""

    def __init__(
        self, config: uvicorn.Config, settings: Settings, service_state: ServiceState
    ) -> None:
        super().__init__(config)
        self._settings = settings
        self._service_state = service_state
        self._stop_requested_at: float | None = None
        self._drained_at = 0.0
        self._has_told_drain = False
        self._memory = MemoryTrimmer()
        self._socket_file: SocketFile | None = None
        self._run_file: RunFile | None = None

    @property
    def is_told_to_stop(self) -> bool:
        """Whether a signal to stop has come, if only before the service could begin."""
        return self._stop_requested_at is not None

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take the signals to stop for as long as the block lasts, and ignore them after it.

        uvicorn gives them their default action back, by which a second one that comes just before
        the end would end the process with another status than its own.
        """
        numbers = HANDLED_SIGNALS if threading.current_thread() is threading.main_thread() else ()
        for number in numbers:
            signal.signal(number, self.handle_exit)
        try:
            yield
        finally:
            for number in numbers:
                signal.signal(number, signal.SIG_IGN)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - a signal handler is given it
        """Begin to drain at the first signal; end at once at a later one."""
        now = monotonic()
        if self._stop_requested_at is None:
            self._stop_requested_at = now
            self._drained_at = now + (self._settings.drain if sig == signal.SIGTERM else 0.0)
            self._service_state.start_draining()
            systemd.notify(systemd.STOPPING)
        elif now - self._stop_requested_at > SAME_STOP_SECONDS:
            self.should_exit = self.force_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to serve. The address of the page is logged last, where a person looks for it."""
        await super().startup(None if sockets is None else copies_to_accept_from(sockets))
        if self.started:
            systemd.notify(systemd.READY)
            if sockets:
                tls = self._service_state.tls is not None
                self._run_file = RunFile(address(sockets[0], tls=tls))
                self._run_file.write(is_ready=True)
            if self._settings.workers == 1:  # else the supervisor looks
                self._socket_file = find_socket_file(sockets or [])
        is_alone = self._settings.workers == 1  # else other processes log after this one
        if self.started and sockets and is_alone and not self._settings.uds_only:
            page = address(sockets[0], tls=self._service_state.tls is not None) + PAGE
            log.info("Open %s in a browser", page)

    async def on_tick(self, counter: int) -> bool:
        """Do what is due each tenth of a second; return whether to stop."""
        if counter % TICKS_BETWEEN_CHECKS == 0:
            now = perf_counter()
            for connection in list(self.server_state.connections):
                if isinstance(connection, (HttpProtocol, WebSocketProtocol)):
                    connection.check_timeouts(now, self._settings)
            self._memory.check(len(self.server_state.connections))
            systemd.notify(systemd.ALIVE)
            if self._run_file is not None:
                self._run_file.write(is_ready=not self._service_state.draining)
            if self._socket_file is not None and self._stop_requested_at is None:
                self._socket_file.check()
        self._tell_drain()
        if self._stop_requested_at is not None and monotonic() >= self._drained_at:
            self.should_exit = True
        return await super().on_tick(counter)

    def _tell_drain(self) -> None:
        """Log once that the service drains; the signal's handler may have interrupted a log."""
        if self._stop_requested_at is None or self._has_told_drain:
            return
        self._has_told_drain = True
        if self._drained_at > self._stop_requested_at:
            log.info(
                "Told to stop: answering on for %g s, not ready any more", self._settings.drain
            )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, let the clients finish, then end."""
        if self._settings.workers == 1:  # else the supervisor does it, for all at once
            for listener in sockets or []:
                refuse_new(listener)
        await asyncio.sleep(HANDSHAKE_SECONDS)
        accepted = asyncio.create_task(self._stop_listening(sockets or []))
        await asyncio.sleep(0)  # the task has closed the listeners

        until = monotonic() + IDLE_LINGER_SECONDS
        while self.server_state.connections and monotonic() < until and not self.force_exit:
            # Again and again, since some have been accepted but not yet begun.
            for connection in list(self.server_state.connections):
                if isinstance(connection, HttpProtocol):
                    connection.close_after_next_answer()
            await asyncio.sleep(0.02)
        accepted.cancel()
        await super().shutdown(sockets)
        if self._run_file is not None:
            self._run_file.remove()
        if self.force_exit:  # uvicorn leaves it out then
            await self.lifespan.shutdown()

    async def _stop_listening(self, listeners: list[socket.socket]) -> None:
        """Close the listeners, but serve the connections that wait to be accepted.

        The kernel has told their clients that they are connected, and would reset them.
        """
        waiting = [connection for each in listeners for connection in accept_waiting(each)]
        for server in self.servers:
            server.close()

        await asyncio.gather(*map(self._serve_last_request, waiting), return_exceptions=True)

    async def _serve_last_request(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        _, protocol = await loop.connect_accepted_socket(
            self._create_protocol, connection, ssl=self.config.ssl
        )
        protocol.close_after_next_answer()

    def _create_protocol(self) -> HttpProtocol:
        # As uvicorn does for the connections that its listeners accept.
        create = cast("Callable[..., HttpProtocol]", self.config.http_protocol_class)
        return create(
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
