"""Workers: settings in, several serving processes behind one port. Knows nothing of routes.

uvicorn's own manager starts them, replaces one that died, and on SIGHUP replaces all, one after the other, each when its successor serves.
Each reads the bundle for itself, so SIGHUP is also how a new bundle reaches all of them.
"""

import socket
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from models import bundle
from service import logs
from service.app import create_app
from service.lanes import Lanes
from service.metrics import Metrics
from service.policy import PolicyError, load
from service.served import Served
from service.settings import Settings
from service.sockets import announce
from service.warm_up import warm_up


def serve(settings: Settings, options: dict[str, Any], listeners: list[socket.socket]) -> int:
    """Serve on `listeners` by `settings.workers` processes until told to stop. Returns 1 when one of them could not start."""
    with tempfile.NamedTemporaryFile(prefix="upright-counts-") as counts:
        app = partial(_app, settings, Path(counts.name))
        config = uvicorn.Config(app, factory=True, workers=settings.workers, **options)
        manager = Multiprocess(config, sockets=listeners)
        announce(listeners)
        manager.run()
    return 1 if any(process.exitcode == STARTUP_FAILURE for process in manager.processes) else 0


def _app(settings: Settings, counts: Path) -> Lanes:
    """Return the application of one process; it ends the process where the bundle cannot be served (any more)."""
    try:
        policy = load(bundle.read(settings.bundle), settings.backend)
    except (bundle.BundleError, PolicyError) as error:
        logs.complain(str(error), settings.log_format)
        sys.exit(STARTUP_FAILURE)
    manifest = policy.bundle.manifest
    app = create_app(settings, Served(policy, Metrics(manifest.actions, [value.name for value in manifest.state], counts)))
    warm_up(policy)
    return app
