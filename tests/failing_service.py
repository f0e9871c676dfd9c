"""The real service, but its policy cannot answer: settings from the command line in, answers with status 500 out."""

import sys

import uvicorn

from models import bundle
from service import logs, sockets
from service.app import create_app
from service.policy import Float32Array, Policy
from service.served import Served
from service.settings import Settings


class BrokenBackend:
    """Fails on every state."""

    def q_values(self, _: Float32Array) -> Float32Array:
        raise MemoryError("no memory")


def main() -> None:
    settings = Settings(_cli_parse_args=sys.argv[1:])
    policy = Policy(bundle.read(settings.bundle), BrokenBackend(), "onnx")
    config = uvicorn.Config(create_app(settings, Served(policy)), log_config=logs.configuration(settings.log_format), access_log=False)
    with sockets.listening(settings) as listeners:
        sockets.announce(listeners)
        uvicorn.Server(config).run(sockets=listeners)


if __name__ == "__main__":
    main()
