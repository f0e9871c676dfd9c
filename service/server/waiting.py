"""Waiting for a bundle that comes later than the service, as from a volume that is still filled.

Meanwhile the service listens where it will serve: it is alive, not ready, has metrics, and refuses
everything else with 503. gRPC is not listened for yet. Whether a bundle has come is found out by
reading it, so one that is still being copied has not.
"""

import asyncio
import logging
import logging.config
import signal
import socket
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from time import monotonic

import uvicorn
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from models import bundle
from models.bundle import BundleError
from service.api import problems
from service.auth import key_file, tls
from service.inference import signature
from service.observability import systemd
from service.observability.exposition import EXPOSITION_TYPE
from service.observability.logging import configuration
from service.observability.metrics import Metrics
from service.observability.run_file import RunFile
from service.rest.middleware.auth import AuthMiddleware
from service.rest.responses import error_response
from service.server.sockets import address, copies_to_accept_from
from service.settings import Settings

LOOK_SECONDS = 0.2  # between two looks for the bundle
GOODBYE_SECONDS = 1.0  # that answers under way get when the waiting is over

log = logging.getLogger("uvicorn.error")


class BundleDidNotComeError(Exception):
    """Raised when no bundle has come within the time that the settings give it."""


def wait_for_bundle(settings: Settings, listeners: list[socket.socket]) -> bool:
    """Wait until the settings' bundle, and the shadow's, can be read; return False if told to stop.

    Returns at once where they can be read already. The listeners stay open. Raises
    `BundleDidNotComeError`, and `KeysError` or `TlsError` for what the settings name.
    """
    reason = _missing(settings)
    if reason is None:
        return True

    logging.config.dictConfig(configuration(settings.log_format))
    log.info(
        "Listening on %s, not ready: waits up to %g s for a bundle: %s",
        ", ".join(address(each, tls=settings.tls_cert is not None) for each in listeners),
        settings.bundle_wait,
        reason,
    )
    return asyncio.run(_Waiting(settings, listeners).run())


def _missing(settings: Settings) -> str | None:
    """Return why a bundle cannot be read yet."""
    try:
        for folder in (settings.bundle, settings.shadow):
            if folder is None:
                continue
            bundle.read(folder)
            if signature.is_missing(folder, settings.verify_key):
                return f"{folder}: is not signed yet"
    except BundleError as error:
        return str(error)
    return None


class _Waiting:
    """A service that has no bundle yet."""

    def __init__(self, settings: Settings, listeners: list[socket.socket]) -> None:
        self._settings = settings
        self._listeners = listeners
        self._metrics = Metrics((), ())
        self._tls = tls.tls_from_settings(settings)
        self._stopped = asyncio.Event()
        known_keys = key_file.keys_from_settings(settings)
        self._app: ASGIApp = self._answer
        if known_keys is not None:
            self._app = AuthMiddleware(self._app, known_keys, self._metrics)

    async def run(self) -> bool:
        """Answer until the bundle has come; return False if a signal came first."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            # Not by the loop, which gives it its default action back before the process has ended.
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(self._stopped.set))
        run_file = RunFile(address(self._listeners[0], tls=self._tls is not None))
        state = ServerState()
        servers = await self._listen(state)
        try:
            return await self._look(run_file)
        finally:
            for server in servers:
                server.close()
            await _end_connections(state)
            run_file.remove()

    async def _look(self, run_file: RunFile) -> bool:
        """Look for the bundle again and again. Raises `BundleDidNotComeError`."""
        until = monotonic() + self._settings.bundle_wait
        while (reason := await asyncio.to_thread(_missing, self._settings)) is not None:
            remaining = until - monotonic()
            if remaining <= 0:
                raise BundleDidNotComeError(
                    f"--bundle-wait {self._settings.bundle_wait:g}: no bundle came in this time;"
                    f" {reason}"
                )
            run_file.write(is_ready=False)
            systemd.notify(systemd.STILL_STARTING)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), min(LOOK_SECONDS, remaining))
                log.info("Told to stop while waiting for a bundle")
                return False
        log.info("The bundle has come")
        return True

    async def _listen(self, state: ServerState) -> list[asyncio.Server]:
        """Answer on copies of the listeners, which stay open when these are closed."""
        config = uvicorn.Config(
            self._app,
            interface="asgi3",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            ws="none",
            ssl_context_factory=self._tls,
        )
        config.load()
        loop = asyncio.get_running_loop()

        create = partial(HttpToolsProtocol, config, state, {}, loop)
        return [
            await loop.create_server(create, sock=each, ssl=config.ssl)
            for each in copies_to_accept_from(self._listeners)
        ]

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as a service does that is alive and not ready."""
        path = scope["path"]
        response: Response
        if path == "/health/live":
            response = JSONResponse({"status": "live"})
        elif path == "/v2/health/live":
            response = JSONResponse({"live": True})
        elif path == "/metrics":
            text = self._metrics.exposition({}, ready=False)
            response = Response(text, HTTPStatus.OK, media_type=EXPOSITION_TYPE)
        else:
            problem = problems.not_ready("The service waits for its bundle; ask again later")
            response = error_response(problem, path)
        # Who is answered now connects anew later, to the service itself.
        response.headers["connection"] = "close"
        await response(scope, receive, send)


async def _end_connections(state: ServerState) -> None:
    """Close the connections, each after the answer that is under way."""
    for connection in list(state.connections):
        connection.shutdown()
    if state.tasks:
        await asyncio.wait(state.tasks, timeout=GOODBYE_SECONDS)
