"""The service without its counting: settings from the command line in, answers out. What the metrics cost is measured against it."""

import sys
from collections.abc import Sequence

from models import bundle
from service.server import server
from service.server import sockets
from service.observability.metrics import Metrics
from service.inference.policy import load
from service.state import Served
from service.settings import Settings


class Nothing(Metrics):
    """Counts nothing."""

    def answered(self, door: str, status: int, seconds: float) -> None:
        """Forget it."""

    def inferred(
        self, seconds: float, actions: Sequence[int], out_of_range: Sequence[Sequence[str]]
    ) -> None:
        """Forget it."""


def main() -> None:
    """Serve, as `python -m service` does."""
    settings = Settings(_cli_parse_args=sys.argv[1:])
    policy = load(bundle.read(settings.bundle), settings.backend)
    manifest = policy.bundle.manifest
    served = Served(policy, Nothing(manifest.actions, [value.name for value in manifest.state]))
    with sockets.listening(settings) as listeners:
        server.serve(settings, served, listeners)


if __name__ == "__main__":
    main()
