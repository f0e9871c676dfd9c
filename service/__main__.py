"""The command line of the service: reads the settings, loads the bundle, listens."""

import logging
import sys
from importlib.util import find_spec

import uvicorn
from pydantic import ValidationError

from models import bundle
from service import sockets
from service.app import create_app
from service.policy import PolicyError, load
from service.settings import Settings
from service.stream import StreamProtocol


def main(arguments: list[str] | None = None) -> int:
    """Serve until told to stop. Returns 1 when the bundle cannot be served, 2 when a setting is wrong."""
    try:
        settings = Settings(_cli_parse_args=sys.argv[1:] if arguments is None else arguments)
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
        _complain("--grpc-port needs grpc, which is not installed; pip install 'upright[grpc]'")
        return 1
    config = uvicorn.Config(
        create_app(settings, policy),
        loop="uvloop",
        http="httptools",
        ws=StreamProtocol,
        ws_max_size=settings.max_body,
        ws_per_message_deflate=False,  # an answer is 200 bytes: compressing costs more than it saves
        access_log=False,
        server_header=False,
        timeout_keep_alive=settings.keep_alive,
    )
    try:
        with sockets.listening(settings) as listeners:
            for listener in listeners:
                logging.getLogger("uvicorn.error").info("Listening on %s", sockets.address(listener))
            server = uvicorn.Server(config)
            server.run(sockets=listeners)
            if not server.started:  # it has logged why
                return 1
    except sockets.SocketError as error:
        _complain(str(error))
        return 1
    return 0


def _complain(text: str) -> None:
    sys.stderr.write(f"upright: {text}\n")


if __name__ == "__main__":
    sys.exit(main())
