"""The command line of the service: reads the settings, loads the bundle, listens."""

import logging.config
import signal
import sys
from functools import partial
from importlib import import_module
from importlib.util import find_spec

from pydantic import ValidationError

from service.auth import keys, tls
from service.auth.keys import KeysError
from service.auth.tls import TlsError
from service.inference import admission
from service.observability import logging as logs
from service.server import server, sockets
from service.server import supervisor as workers
from service.settings import Settings
from service.state import ServiceState

COMMANDS = {  # what can be done in place of serving: each a module whose `main` takes the rest of the arguments
    "key": "service.commands.key",
    "replay": "service.commands.replay",
    "export": "service.commands.export",
}


def main(arguments: list[str] | None = None) -> int:
    """Serve until told to stop. Returns 1 when the bundle cannot be served, 2 when a setting is wrong."""
    given = sys.argv[1:] if arguments is None else arguments
    if given and given[0] in COMMANDS:
        return int(import_module(COMMANDS[given[0]]).main(given[1:]))
    if any(argument.startswith("--tls-key-password") for argument in given):
        logs.complain(
            "--tls-key-password would show the password to every user of the machine; set UPRIGHT_TLS_KEY_PASSWORD"
        )
        return 2
    try:
        settings = Settings(_cli_parse_args=given)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            name = ".".join(str(part) for part in detail["loc"])
            if not name:  # several settings that do not fit together: the message names them
                logs.complain(detail["msg"])
                continue
            logs.complain(
                f"--{name.replace('_', '-')} or UPRIGHT_{name.upper()}: {detail['msg']}, not {detail['input']!r}"
            )
        return 2
    complain = partial(logs.complain, form=settings.log_format)
    signal.pthread_sigmask(
        signal.SIG_BLOCK, {signal.SIGHUP}
    )  # one that comes before there is anything to reload waits until there is
    try:
        policy, shadow = admission.at_start(settings)
        service_state = ServiceState(policy, keys=keys.keys_of(settings), tls=tls.tls_of(settings))
    except (*admission.REFUSALS, KeysError, TlsError) as error:
        complain(str(error))
        return 1
    if settings.grpc_port is not None and find_spec("grpc") is None:
        complain(
            "--grpc-port needs grpc, which is not installed: in a checkout, .venv/bin/pip install '.[grpc]'"
        )
        return 1
    if settings.tracing and not _can_trace():
        complain(
            "--tracing needs OpenTelemetry, which is not installed: in a checkout, .venv/bin/pip install '.[tracing]'"
        )
        return 1
    try:
        with sockets.listening(settings) as listeners:
            if settings.grpc_port is not None:
                sockets.check_free(settings.host, settings.grpc_port)
            if settings.record is not None:
                from service.records import (
                    store as record,  # needs SQLite, which takes time to import
                )

                try:
                    record.check(settings.record, policy.bundle.manifest)
                except record.RecordError as error:
                    complain(f"--record {error}")
                    return 1
            logging.config.dictConfig(logs.configuration(settings.log_format))
            sockets.announce(listeners, tls=service_state.tls is not None)
            keys.announce(settings)
            if settings.workers > 1:
                return workers.serve(settings, policy.bundle, listeners)
            return (
                0 if server.serve(settings, service_state, listeners, shadow=shadow) else 1
            )  # it has logged why
    except sockets.SocketError as error:
        complain(str(error))
        return 1


def _can_trace() -> bool:
    try:
        import_module("service.observability.tracing")
    except ModuleNotFoundError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
