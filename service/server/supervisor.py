"""Workers: settings in, several serving processes behind one port. Knows nothing of routes.

Each process reads the bundle from a shelf that all share, and answers the connections that it accepts. What one of them loads later is
followed by all. Signals are passed on to all, and one that dies is replaced. uvicorn has a manager too, but it closes connections to
reload, and cannot be given a server that drains.
"""

import logging
import os
import signal
import socket
import sys
import tempfile
import threading
from multiprocessing import connection, get_context, parent_process
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import FrameType

from models.bundle import Bundle
from service.auth import keys, tls
from service.auth.keys import KeysError
from service.auth.tls import TlsError
from service.inference import admission
from service.observability import logging as logs
from service.observability.metrics import Metrics
from service.rollout.bundle_store import Shelf, Shelved
from service.server import server
from service.settings import Settings
from service.state import ServiceState

CANNOT_START = 3  # exit status of a process that could not begin to serve
AGAIN_SECONDS = 1.0  # between two attempts to replace a process
STOPPING = (signal.SIGTERM, signal.SIGINT)

log = logging.getLogger("uvicorn.error")


def serve(settings: Settings, live: Bundle, listeners: list[socket.socket]) -> int:
    """Serve a bundle on `listeners` by `settings.workers` processes until told to stop. Returns 1 when one of them could not start."""
    with (
        tempfile.NamedTemporaryFile(prefix="upright-counts-") as counts,
        tempfile.TemporaryDirectory(prefix="upright-shelf-") as folder,
    ):
        shelf = Shelf(Path(folder))
        shelf.put(Shelved(live=live.digest), live)
        return Manager(settings, listeners, Path(counts.name), shelf).run()


class Manager:
    """Starts the processes, watches them, and passes on what it is told."""

    def __init__(
        self, settings: Settings, listeners: list[socket.socket], counts: Path, shelf: Shelf
    ) -> None:
        self._settings = settings
        self._listeners = listeners
        self._counts = counts
        self._shelf = shelf
        self._processes: list[SpawnProcess] = []
        self._stopping = False

    def run(self) -> int:
        """Serve until told to stop."""
        log.info("Started parent process [%d]", os.getpid())
        for number in (*STOPPING, signal.SIGHUP):
            signal.signal(number, self._pass_on)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
        self._processes = [self._start() for _ in range(self._settings.workers)]
        first = set(self._processes)
        failed = False
        while self._processes:
            ended = connection.wait([process.sentinel for process in self._processes])
            for process in [process for process in self._processes if process.sentinel in ended]:
                process.join()
                self._processes.remove(process)
                if process in first and process.exitcode == CANNOT_START:
                    failed = True
                    self._pass_on(signal.SIGTERM, None)
                if not self._stopping:
                    log.error(
                        "Process [%s] ended with status %s; another takes its place",
                        process.pid,
                        process.exitcode,
                    )
                    threading.Event().wait(AGAIN_SECONDS if process.exitcode == CANNOT_START else 0)
                    self._processes.append(self._start())
        return int(failed)

    def _start(self) -> SpawnProcess:
        # A fresh process, not a fork: this one may hold threads and locks of onnxruntime.
        process = get_context("spawn").Process(
            target=_serve, args=(self._settings, self._listeners, self._counts, self._shelf)
        )
        signal.pthread_sigmask(
            signal.SIG_BLOCK, {signal.SIGHUP}
        )  # as the new process has it from the beginning, until it can reload
        process.start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
        if self._stopping:  # told while it was started
            process.terminate()
        return process

    def _pass_on(self, number: int, _: FrameType | None) -> None:
        self._stopping = self._stopping or number in STOPPING
        for process in self._processes:
            if process.pid is not None and process.exitcode is None:
                os.kill(process.pid, number)


def _serve(settings: Settings, listeners: list[socket.socket], counts: Path, shelf: Shelf) -> None:
    """Serve as one process of several. It ends where the bundle cannot be served (any more), and when the manager is gone."""
    os.setpgid(
        0, 0
    )  # Ctrl-C on a terminal is the manager's, and is passed on: it must not come twice
    threading.Thread(target=_end_with_the_manager, daemon=True).start()
    try:
        with shelf.locked():
            policy, shadow = admission.at_start(settings, shelf.place(shelf.read().live))
        known, certificate = keys.keys_of(settings), tls.tls_of(settings)
    except (*admission.REFUSALS, KeysError, TlsError) as error:
        logs.complain(str(error), settings.log_format)
        sys.exit(CANNOT_START)
    manifest = policy.bundle.manifest
    counting = Metrics(manifest.actions, [value.name for value in manifest.state], counts)
    service_state = ServiceState(policy, metrics=counting, keys=known, tls=certificate)
    if not server.serve(settings, service_state, listeners, shadow=shadow, store=shelf):
        sys.exit(CANNOT_START)


def _end_with_the_manager() -> None:
    manager = parent_process()
    assert manager is not None  # noqa: S101 - this is a process that the manager started
    connection.wait([manager.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
