"""The command line of the service: reads the settings, loads the bundle, listens."""

import logging.config
import sys
from importlib import import_module
from importlib.util import find_spec

import uvicorn.config
from pydantic import ValidationError

from models import bundle
from service import server, sockets, workers
from service.policy import PolicyError, load
from service.served import Served
from service.settings import Settings

COMMANDS = {  # what can be done in place of serving: each a module whose `main` takes the rest of the arguments
    "replay": "service.replay",
    "export": "service.export",
}


def main(arguments: list[str] | None = None) -> int:
    """Serve until told to stop. Returns 1 when the bundle cannot be served, 2 when a setting is wrong."""
    given = sys.argv[1:] if arguments is None else arguments
    if given and given[0] in COMMANDS:
        return int(import_module(COMMANDS[given[0]]).main(given[1:]))
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
    try:
        policy = load(bundle.read(settings.bundle), settings.backend)
    except (bundle.BundleError, PolicyError) as error:
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
            sockets.announce(listeners)
            if settings.workers > 1:
                return workers.serve(settings, listeners)
            return 0 if server.serve(settings, Served(policy), listeners) else 1  # it has logged why
    except sockets.SocketError as error:
        _complain(str(error))
        return 1


def _complain(text: str) -> None:
    sys.stderr.write(f"upright: {text}\n")


if __name__ == "__main__":
    sys.exit(main())
