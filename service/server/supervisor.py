"""Several serving processes behind one port.

Each process reads the bundle from a folder that all share, and answers the connections that it
accepts. What one of them loads later is loaded by all. Signals are passed on to all, and a process
that dies is replaced. uvicorn has a supervisor too, but it closes connections to reload, and cannot
be given a server that drains.
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
from service.auth import key_file, tls
from service.auth.keys import KeysError
from service.auth.tls import TlsError
from service.inference import admission
from service.observability import logging as service_logging
from service.observability.metrics import Metrics
from service.rollout.bundle_store import BundleStore, RolloutState
from service.server import server
from service.settings import Settings
from service.state import ServiceState

EXIT_CANNOT_START = 3  # status of a process that could not begin to serve
RETRY_SECONDS = 1.0  # between two attempts to replace a process that cannot start
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

log = logging.getLogger("uvicorn.error")


def serve(settings: Settings, live: Bundle, listeners: list[socket.socket]) -> int:
    """Serve a bundle on `listeners` by `settings.workers` processes until a signal to stop.

    Returns the exit status: 1 when one of them could not start.
    """
    with (
        tempfile.NamedTemporaryFile(prefix="upright-metrics-") as metrics_file,
        tempfile.TemporaryDirectory(prefix="upright-bundles-") as folder,
    ):
        store = BundleStore(Path(folder))
        store.write(RolloutState(live=live.digest), live)
        return Supervisor(settings, listeners, Path(metrics_file.name), store).run()


class Supervisor:
    """Starts the processes, replaces those that die, and passes signals on."""

    def __init__(
        self,
        settings: Settings,
        listeners: list[socket.socket],
        metrics_file: Path,
        store: BundleStore,
    ) -> None:
        self._settings = settings
        self._listeners = listeners
        self._metrics_file = metrics_file
        self._store = store
        self._processes: list[SpawnProcess] = []
        self._is_stopping = False

    def run(self) -> int:
        """Serve until a signal to stop; return the exit status."""
        log.info("Started parent process [%d]", os.getpid())
        for number in (*STOP_SIGNALS, signal.SIGHUP):
            signal.signal(number, self._pass_on)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})

        self._processes = [self._start() for _ in range(self._settings.workers)]
        first = set(self._processes)
        failed = False
        while self._processes:
            ended = connection.wait([process.sentinel for process in self._processes])
            for process in [each for each in self._processes if each.sentinel in ended]:
                process.join()
                self._processes.remove(process)
                if process in first and process.exitcode == EXIT_CANNOT_START:
                    failed = True
                    self._pass_on(signal.SIGTERM, None)
                if not self._is_stopping:
                    self._replace(process)
        return int(failed)

    def _replace(self, process: SpawnProcess) -> None:
        log.error(
            "Process [%s] ended with status %s; another takes its place",
            process.pid,
            process.exitcode,
        )
        if process.exitcode == EXIT_CANNOT_START:
            threading.Event().wait(RETRY_SECONDS)
        self._processes.append(self._start())

    def _start(self) -> SpawnProcess:
        # A fresh process, not a fork: this one may hold threads and locks of onnxruntime.
        process = get_context("spawn").Process(
            target=_serve,
            args=(self._settings, self._listeners, self._metrics_file, self._store),
        )
        # Inherited by the new process, which takes SIGHUP once it can reload.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        process.start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
        if self._is_stopping:  # the signal came while the process was started
            process.terminate()
        return process

    def _pass_on(self, number: int, _: FrameType | None) -> None:
        if number in STOP_SIGNALS:
            self._is_stopping = True
            for listener in self._listeners:  # else the kernel would accept what nobody answers
                listener.close()
        for process in self._processes:
            if process.pid is not None and process.exitcode is None:
                os.kill(process.pid, number)


def _serve(
    settings: Settings, listeners: list[socket.socket], metrics_file: Path, store: BundleStore
) -> None:
    """Serve as one process of several, which ends with the supervisor.

    It also ends where its bundle cannot be served.
    """
    # Ctrl-C on a terminal is for the supervisor, which passes it on: it must not come twice.
    os.setpgid(0, 0)
    threading.Thread(target=_end_with_the_supervisor, daemon=True).start()
    try:
        with store.locked():
            policy, shadow = admission.at_start(settings, store.folder_of(store.read().live))
        keys = key_file.keys_from_settings(settings)
        certificate = tls.tls_from_settings(settings)
    except (*admission.REFUSALS, KeysError, TlsError) as error:
        service_logging.print_error(str(error), settings.log_format)
        sys.exit(EXIT_CANNOT_START)

    manifest = policy.bundle.manifest
    metrics = Metrics(manifest.actions, [value.name for value in manifest.state], metrics_file)
    service_state = ServiceState(policy, metrics=metrics, keys=keys, tls=certificate)
    if not server.serve(settings, service_state, listeners, shadow=shadow, bundle_store=store):
        sys.exit(EXIT_CANNOT_START)


def _end_with_the_supervisor() -> None:
    supervisor = parent_process()
    assert supervisor is not None  # noqa: S101 - this process was started by it
    connection.wait([supervisor.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
