"""The real service, but its policy knows one state only, and fails on any other."""

import logging.config
import sys

import numpy as np

from models import bundle
from service.commands.command_line import parse_settings
from service.inference.backends import Float32Array
from service.inference.policy import Policy
from service.observability import logging as logs
from service.server import server, sockets
from service.state import ServiceState


class BrokenBackend:
    """Fails on every state but the one that the service warms up with."""

    def __init__(self, known: tuple[float, ...]) -> None:
        self._known = np.array(known, np.float32)

    def q_values(self, states: Float32Array) -> Float32Array:
        if (states[0] != self._known).any():
            raise MemoryError("no memory")
        return np.zeros((len(states), 2), np.float32)


def main() -> None:
    settings = parse_settings(sys.argv[1:])
    read = bundle.read(settings.bundle)
    policy = Policy(read, BrokenBackend(read.manifest.golden_states[0].state), "onnx")
    with sockets.listening(settings) as listeners:
        logging.config.dictConfig(logs.configuration(settings.log_format))
        sockets.announce(listeners)
        server.serve(settings, ServiceState(policy), listeners)


if __name__ == "__main__":
    main()
