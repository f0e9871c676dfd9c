"""The service without its metrics, which shows what they cost. Takes the same command line."""

import sys
from collections.abc import Sequence

from models import bundle
from service.commands.command_line import parse_settings
from service.inference.loading import load
from service.observability.metrics import Metrics
from service.server import server, sockets
from service.state import ServiceState


class Nothing(Metrics):
    """Counts nothing."""

    def observe_request(self, endpoint: str, status: int, seconds: float) -> None:
        """Forget it."""

    def observe_inference(
        self, seconds: float, actions: Sequence[int], out_of_range: Sequence[Sequence[str]]
    ) -> None:
        """Forget it."""


def main() -> None:
    """Serve, as `python -m service` does."""
    settings = parse_settings(sys.argv[1:])
    policy = load(bundle.read(settings.bundle), settings.backend)
    manifest = policy.bundle.manifest
    metrics = Nothing(manifest.actions, [value.name for value in manifest.state])
    service_state = ServiceState(policy, metrics=metrics)
    with sockets.listening(settings) as listeners:
        server.serve(settings, service_state, listeners)


if __name__ == "__main__":
    main()
