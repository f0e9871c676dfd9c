"""The command line of the service: reads the settings, loads the bundle, listens."""

import signal
import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import uvicorn
from pydantic import ValidationError

from models import bundle
from service import keys, sockets, tls, workers
from service.app import create_app
from service.keys import KeysError
from service.policy import PolicyError, load
from service.served import Served
from service.settings import Settings
from service.stream import StreamProtocol
from service.tls import TlsError
from service.warm_up import warm_up

COMMANDS = {"key": "service.new_key"}  # what can be done in place of serving: each a module whose `main` takes the rest of the arguments


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
    try:
        policy = load(bundle.read(settings.bundle), settings.backend)
        served = Served(policy, keys=keys.keys_of(settings), tls=tls.tls_of(settings))
    except (bundle.BundleError, PolicyError, KeysError, TlsError) as error:
        _complain(str(error))
        return 1
    if settings.grpc_port is not None and find_spec("grpc") is None:
        _complain("--grpc-port needs grpc, which is not installed: in a checkout, .venv/bin/pip install '.[grpc]'")
        return 1
    options: dict[str, Any] = {
        "loop": "uvloop",
        "ws": StreamProtocol,
        "ws_max_size": settings.max_body,
        "ws_per_message_deflate": False,  # an answer is 200 bytes: compressing costs more than it saves
        "proxy_headers": False,  # nothing here asks who the client is, and looking would cost every request
        "access_log": False,
        "server_header": False,
        "timeout_keep_alive": settings.keep_alive,
        "timeout_graceful_shutdown": settings.shutdown,
        "ssl_context_factory": served.tls,
    }
    try:
        with sockets.listening(settings) as listeners:
            if settings.grpc_port is not None:
                sockets.check_free(settings.host, settings.grpc_port)
            if settings.workers > 1:
                return workers.serve(settings, options, listeners)
            server = uvicorn.Server(uvicorn.Config(create_app(settings, served), **options))
            warm_up(policy)
            sockets.announce(listeners, tls=served.tls is not None)
            keys.announce(settings)
            # After it has drained, uvicorn raises again the signal that stopped it: being told to stop is no failure.
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: None)
            server.run(sockets=listeners)
            return 0 if server.started else 1  # it has logged why
    except sockets.SocketError as error:
        _complain(str(error))
        return 1


def _complain(text: str) -> None:
    sys.stderr.write(f"upright: {text}\n")


if __name__ == "__main__":
    sys.exit(main())
