"""The command line of the service: reads the settings, loads the bundle, listens."""

import logging.config
import signal
import sys
from importlib import import_module
from importlib.util import find_spec

import uvicorn.config
from pydantic import ValidationError

from service import admission, keys, server, sockets, tls, workers
from service.keys import KeysError
from service.served import Served
from service.settings import Settings
from service.tls import TlsError

COMMANDS = {  # what can be done in place of serving: each a module whose `main` takes the rest of the arguments
    "key": "service.new_key",
    "replay": "service.replay",
    "export": "service.export",
}


def main(arguments: list[str] | None = None) -> int:
    """Serve until told to stop. Returns 1 when the bundle cannot be served, 2 when a setting is wrong."""
    given = sys.argv[1:] if arguments is None else arguments
    if given and given[0] in COMMANDS:
        return int(import_module(COMMANDS[given[0]]).main(given[1:]))
    if any(argument.startswith("--tls-key-password") for argument in given):
        _complain("--tls-key-password would show the password to every user of the machine; set UPRIGHT_TLS_KEY_PASSWORD")
        return 2
    try:
        settings = Settings(_cli_parse_args=given)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            name = ".".join(str(part) for part in detail["loc"])
            if not name:  # several settings that do not fit together: the message names them
                _complain(detail["msg"])
                continue
            _complain(f"--{name.replace('_', '-')} or UPRIGHT_{name.upper()}: {detail['msg']}, not {detail['input']!r}")
        return 2
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})  # one that comes before there is anything to reload waits until there is
    try:
        policy, shadow = admission.at_start(settings)
        served = Served(policy, shadow=shadow, keys=keys.keys_of(settings), tls=tls.tls_of(settings))
    except (*admission.REFUSALS, KeysError, TlsError) as error:
        _complain(str(error))
        return 1
    if settings.grpc_port is not None and find_spec("grpc") is None:
        _complain("--grpc-port needs grpc, which is not installed: in a checkout, .venv/bin/pip install '.[grpc]'")
        return 1
    try:
        with sockets.listening(settings) as listeners:
            if settings.grpc_port is not None:
                sockets.check_free(settings.host, settings.grpc_port)
            if settings.record is not None:
                from service import record  # needs SQLite, which takes time to import

                try:
                    record.check(settings.record, policy.bundle.manifest)
                except record.RecordError as error:
                    _complain(f"--record {error}")
                    return 1
            logging.config.dictConfig(uvicorn.config.LOGGING_CONFIG)
            sockets.announce(listeners, tls=served.tls is not None)
            keys.announce(settings)
            if settings.workers > 1:
                return workers.serve(settings, policy.bundle, listeners)
            return 0 if server.serve(settings, served, listeners) else 1  # it has logged why
    except sockets.SocketError as error:
        _complain(str(error))
        return 1


def _complain(text: str) -> None:
    sys.stderr.write(f"upright: {text}\n")


if __name__ == "__main__":
    sys.exit(main())
