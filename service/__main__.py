"""The command line of the service: reads the settings, loads the bundle, listens."""

import sys
from typing import Any

import uvicorn
from pydantic import ValidationError

from models import bundle
from service import workers
from service.app import create_app
from service.policy import PolicyError, load
from service.protocol import OneWriteProtocol
from service.settings import Settings
from service.warm_up import warm_up


def main(arguments: list[str] | None = None) -> int:
    """Serve until told to stop. Returns 1 when the bundle cannot be served, 2 when a setting is wrong."""
    try:
        settings = Settings(_cli_parse_args=sys.argv[1:] if arguments is None else arguments)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            name = ".".join(str(part) for part in detail["loc"])
            _complain(f"--{name.replace('_', '-')} or UPRIGHT_{name.upper()}: {detail['msg']}, not {detail['input']!r}")
        return 2
    try:
        policy = load(bundle.read(settings.bundle), settings.backend)
    except (bundle.BundleError, PolicyError) as error:
        _complain(str(error))
        return 1
    options: dict[str, Any] = {
        "host": settings.host,
        "port": settings.port,
        "loop": "uvloop",
        "http": OneWriteProtocol,
        "proxy_headers": False,  # nothing here asks who the client is, and looking would cost every request
        "access_log": False,
        "server_header": False,
        "timeout_keep_alive": settings.keep_alive,
    }
    if settings.workers > 1:
        return workers.serve(settings, options)
    app = create_app(settings, policy)
    warm_up(policy)
    uvicorn.run(app, **options)
    return 0


def _complain(text: str) -> None:
    sys.stderr.write(f"upright: {text}\n")


if __name__ == "__main__":
    sys.exit(main())
