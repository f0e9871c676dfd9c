"""The command line of the service: reads the settings, loads the bundle, listens."""

import signal
import sys
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import uvicorn
from pydantic import ValidationError

from models import bundle
from service import logs, sockets, workers
from service.app import create_app
from service.policy import PolicyError, load
from service.served import Served
from service.settings import Settings
from service.stream import StreamProtocol
from service.warm_up import warm_up


def main(arguments: list[str] | None = None) -> int:
    """Serve until told to stop. Returns 1 when the bundle cannot be served, 2 when a setting is wrong."""
    try:
        settings = Settings(_cli_parse_args=sys.argv[1:] if arguments is None else arguments)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            name = ".".join(str(part) for part in detail["loc"])
            if not name:  # several settings that do not fit together: the message names them
                logs.complain(detail["msg"])
                continue
            logs.complain(f"--{name.replace('_', '-')} or UPRIGHT_{name.upper()}: {detail['msg']}, not {detail['input']!r}")
        return 2
    complain = partial(logs.complain, form=settings.log_format)
    try:
        policy = load(bundle.read(settings.bundle), settings.backend)
    except (bundle.BundleError, PolicyError) as error:
        complain(str(error))
        return 1
    if settings.grpc_port is not None and find_spec("grpc") is None:
        complain("--grpc-port needs grpc, which is not installed: in a checkout, .venv/bin/pip install '.[grpc]'")
        return 1
    if settings.tracing and not _can_trace():
        complain("--tracing needs OpenTelemetry, which is not installed: in a checkout, .venv/bin/pip install '.[tracing]'")
        return 1
    options: dict[str, Any] = {
        "loop": "uvloop",
        "ws": StreamProtocol,
        "ws_max_size": settings.max_body,
        "ws_per_message_deflate": False,  # an answer is 200 bytes: compressing costs more than it saves
        "proxy_headers": False,  # nothing here asks who the client is, and looking would cost every request
        "log_config": logs.configuration(settings.log_format),
        "access_log": False,
        "server_header": False,
        "timeout_keep_alive": settings.keep_alive,
        "timeout_graceful_shutdown": settings.shutdown,
    }
    try:
        with sockets.listening(settings) as listeners:
            if settings.grpc_port is not None:
                sockets.check_free(settings.host, settings.grpc_port)
            if settings.workers > 1:
                return workers.serve(settings, options, listeners)
            server = uvicorn.Server(uvicorn.Config(create_app(settings, Served(policy)), **options))
            warm_up(policy)
            sockets.announce(listeners)
            # After it has drained, uvicorn raises again the signal that stopped it: being told to stop is no failure.
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: None)
            server.run(sockets=listeners)
            return 0 if server.started else 1  # it has logged why
    except sockets.SocketError as error:
        complain(str(error))
        return 1


def _can_trace() -> bool:
    try:
        import_module("service.tracing")
    except ModuleNotFoundError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
