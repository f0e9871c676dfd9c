"""The command line of the service: reads the settings, loads the bundle, listens."""

import logging.config
import sys
from functools import partial
from importlib import import_module
from importlib.util import find_spec

from pydantic import ValidationError

from models import bundle
from service import logs, server, sockets, workers
from service.policy import PolicyError, load
from service.served import Served
from service.settings import Settings


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
    try:
        with sockets.listening(settings) as listeners:
            if settings.grpc_port is not None:
                sockets.check_free(settings.host, settings.grpc_port)
            logging.config.dictConfig(logs.configuration(settings.log_format))
            sockets.announce(listeners)
            if settings.workers > 1:
                return workers.serve(settings, listeners)
            return 0 if server.serve(settings, Served(policy), listeners) else 1  # it has logged why
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
