"""Workers: settings in, several serving processes behind one port. Knows nothing of routes.

uvicorn's own manager starts them, replaces one that died, and on SIGHUP replaces all, one after the other, each when its successor serves.
Each reads the bundle for itself, so SIGHUP is also how a new bundle reaches all of them.
"""

import socket
import ssl
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from models import bundle
from service import keys, tls
from service.app import create_app
from service.keys import KeysError
from service.lanes import Lanes
from service.metrics import Metrics
from service.policy import PolicyError, load
from service.served import Served
from service.settings import Settings
from service.sockets import announce
from service.tls import TlsError
from service.warm_up import warm_up


def serve(settings: Settings, options: dict[str, Any], listeners: list[socket.socket]) -> int:
    """Serve on `listeners` by `settings.workers` processes until told to stop. Returns 1 when one of them could not start."""
    with tempfile.NamedTemporaryFile(prefix="upright-counts-") as counts:
        app = partial(_app, settings, Path(counts.name))
        if settings.tls_cert is not None:
            options = options | {"ssl_context_factory": partial(_context, settings)}  # a context cannot be sent to another process
        config = uvicorn.Config(app, factory=True, workers=settings.workers, **options)
        manager = Multiprocess(config, sockets=listeners)
        announce(listeners, tls=settings.tls_cert is not None)
        keys.announce(settings)
        manager.run()
    return 1 if any(process.exitcode == STARTUP_FAILURE for process in manager.processes) else 0


def _app(settings: Settings, counts: Path) -> Lanes:
    """Return the application of one process; it ends the process where the bundle cannot be served (any more)."""
    try:
        policy = load(bundle.read(settings.bundle), settings.backend)
        known = keys.keys_of(settings)
    except (bundle.BundleError, PolicyError, KeysError) as error:
        sys.stderr.write(f"upright: {error}\n")
        sys.exit(STARTUP_FAILURE)
    app = create_app(settings, Served(policy, Metrics(policy.bundle.manifest.actions, counts), known))
    warm_up(policy)
    return app


def _context(settings: Settings, *_: object) -> ssl.SSLContext:
    """Return one process's TLS; it ends the process where its files cannot be used (any more)."""
    try:
        return tls.Tls(settings)()
    except TlsError as error:
        sys.stderr.write(f"upright: {error}\n")
        sys.exit(STARTUP_FAILURE)
