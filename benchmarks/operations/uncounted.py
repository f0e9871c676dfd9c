"""The service without its counting: settings from the command line in, answers out. What the metrics cost is measured against it."""

import sys
from collections.abc import Sequence

import uvicorn

from models import bundle
from service import logs, sockets
from service.app import create_app
from service.metrics import Metrics
from service.policy import load
from service.served import Served
from service.settings import Settings
from service.stream import StreamProtocol
from service.warm_up import warm_up


class Nothing(Metrics):
    """Counts nothing."""

    def answered(self, door: str, status: int, seconds: float) -> None:
        """Forget it."""

    def inferred(self, seconds: float, actions: Sequence[int], out_of_range: Sequence[Sequence[str]]) -> None:
        """Forget it."""


def main() -> None:
    """Serve, as `python -m service` does."""
    settings = Settings(_cli_parse_args=sys.argv[1:])
    policy = load(bundle.read(settings.bundle), settings.backend)
    manifest = policy.bundle.manifest
    served = Served(policy, Nothing(manifest.actions, [value.name for value in manifest.state]))
    config = uvicorn.Config(
        create_app(settings, served), loop="uvloop", ws=StreamProtocol, access_log=False, proxy_headers=False, server_header=False,
        log_config=logs.configuration(settings.log_format), timeout_keep_alive=settings.keep_alive,
    )  # fmt: skip
    with sockets.listening(settings) as listeners:
        warm_up(policy)
        uvicorn.Server(config).run(sockets=listeners)


if __name__ == "__main__":
    main()
