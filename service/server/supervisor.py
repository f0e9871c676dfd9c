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
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing import connection, get_context, parent_process, resource_tracker
from multiprocessing.context import SpawnProcess
from pathlib import Path
from time import monotonic
from types import FrameType

from models.bundle import Bundle
from service.auth import key_file, tls
from service.auth.keys import KeysError
from service.auth.tls import TlsError
from service.inference import admission
from service.observability import logging as service_logging
from service.observability import systemd
from service.observability.metrics import Metrics
from service.rollout.bundle_store import BundleStore, RolloutState, StoreKeeper
from service.server import server
from service.server.sockets import find_socket_file, refuse_new
from service.settings import Settings
from service.state import ServiceState

EXIT_CANNOT_START = 3  # status of a process that could not begin to serve
STABLE_SECONDS = 10.0  # a process that lived for so long did not end for a lasting reason
# Between the end of a process that did not live for so long and the start of the next one.
BACKOFF_FIRST, BACKOFF_LONGEST = 0.1, 5.0
CHECK_SECONDS = 1.0  # between two looks at what the processes share
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

log = logging.getLogger("uvicorn.error")


class SupervisorError(Exception):
    """Raised when there is no place for what the processes share."""


@contextmanager
def prepared(
    settings: Settings, live: Bundle, listeners: list[socket.socket]
) -> Iterator["Supervisor"]:
    """Give what serves a bundle on `listeners` by `settings.workers` processes.

    What they share lies in a temporary folder until the end of the block. Raises `SupervisorError`.
    """
    with ExitStack() as stack:
        try:
            metrics_file = stack.enter_context(_lasting_file("upright-metrics-"))
            folder = stack.enter_context(
                tempfile.TemporaryDirectory(prefix="upright-bundles-", ignore_cleanup_errors=True)
            )
            store = BundleStore(Path(folder))
            store.write(RolloutState(live=live.digest), live)
        except OSError as error:
            raise SupervisorError(
                f"--workers {settings.workers} needs a temporary folder that can be written;"
                f" TMPDIR names one: {tempfile.tempdir or ''}: {error.strerror or error}"
            ) from error
        yield Supervisor(settings, listeners, metrics_file, StoreKeeper(store, live))


@contextmanager
def _lasting_file(prefix: str) -> Iterator[Path]:
    """Make a temporary file whose path works as long as this process lives.

    A temporary folder may be cleaned meanwhile. Without /proc it is the file's own path.
    """
    descriptor, name = tempfile.mkstemp(prefix=prefix)
    try:
        path = Path(f"/proc/{os.getpid()}/fd/{descriptor}")
        yield path if path.exists() else Path(name)
    finally:
        os.close(descriptor)
        Path(name).unlink(missing_ok=True)


class Supervisor:
    """Starts the processes, replaces those that die, and passes signals on."""

    def __init__(
        self,
        settings: Settings,
        listeners: list[socket.socket],
        metrics_file: Path,
        keeper: StoreKeeper,
    ) -> None:
        self._settings = settings
        self._listeners = listeners
        self._metrics_file = metrics_file
        self._keeper = keeper
        self._socket_file = find_socket_file(listeners)
        self._processes: dict[SpawnProcess, float] = {}  # with the time when each was started
        self._restarts: list[float] = []  # when those that ended are to be replaced
        self._early_ends = 0  # of processes that did not live for long, one after the other
        self._is_stopping = False

    def run(self) -> int:
        """Serve until a signal to stop; return the exit status."""
        log.info("Started parent process [%d]", os.getpid())
        for number in (*STOP_SIGNALS, signal.SIGHUP):
            signal.signal(number, self._pass_on)
        signal.signal(signal.SIGALRM, self._stop_listening)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})

        for _ in range(self._settings.workers):
            self._start()
        first = set(self._processes)
        failed = False
        while self._processes or (self._restarts and not self._is_stopping):
            for process in self._wait():
                if process in first and process.exitcode == EXIT_CANNOT_START:
                    failed = True
                    self._pass_on(signal.SIGTERM, None)
                started = self._processes.pop(process)
                if not self._is_stopping:
                    self._plan_restart(process, started)
            self._check()
            self._restart()
        return int(failed)

    def _wait(self) -> list[SpawnProcess]:
        """Wait until a process ends or something else is due; return those that ended."""
        due = min([monotonic() + CHECK_SECONDS, *self._restarts])
        sentinels = [process.sentinel for process in self._processes]
        ended = connection.wait(sentinels, max(0.0, due - monotonic()))
        processes = [process for process in self._processes if process.sentinel in ended]
        for process in processes:
            process.join()
        return processes

    def _plan_restart(self, process: SpawnProcess, started: float) -> None:
        now = monotonic()
        self._early_ends = self._early_ends + 1 if now - started < STABLE_SECONDS else 0
        delay = 0.0
        if self._early_ends:
            delay = min(BACKOFF_LONGEST, BACKOFF_FIRST * 2 ** min(self._early_ends - 1, 16))
        self._restarts.append(now + delay)
        log.error(
            "Process [%s] ended with status %s; another takes its place%s",
            process.pid,
            process.exitcode,
            f" in {delay:g} s" if delay else "",
        )

    def _check(self) -> None:
        systemd.notify(systemd.ALIVE)
        self._keeper.check()
        if self._socket_file is not None and not self._is_stopping:
            self._socket_file.check()

    def _restart(self) -> None:
        now = monotonic()
        for due in [each for each in self._restarts if each <= now]:
            if self._is_stopping:
                return
            self._restarts.remove(due)
            self._start()

    def _start(self) -> None:
        # A fresh process, not a fork: this one may hold threads and locks of onnxruntime.
        process = get_context("spawn").Process(
            target=_serve,
            args=(self._settings, self._listeners, self._metrics_file, self._keeper.store),
        )
        resource_tracker.ensure_running()  # as its start would unblock SIGINT again
        # Inherited by the new process, which takes SIGHUP once it can reload, and SIGINT once it
        # does not end in the midst of an import by it.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP, signal.SIGINT})
        try:
            process.start()
        except OSError as error:  # the system has no memory or no process left
            log.error("No process can be started: %s", error.strerror)
            self._restarts.append(monotonic() + BACKOFF_LONGEST)
            return
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP, signal.SIGINT})
        self._processes[process] = monotonic()
        if self._is_stopping:  # the signal came while the process was started
            process.terminate()

    def _pass_on(self, number: int, _: FrameType | None) -> None:
        if number in STOP_SIGNALS:
            drain = self._settings.drain if number == signal.SIGTERM else 0.0
            if not drain:
                self._stop_listening(number, None)
            elif not self._is_stopping:
                signal.setitimer(signal.ITIMER_REAL, drain)
            self._is_stopping = True
            systemd.notify(systemd.STOPPING)
        for process in list(self._processes):
            if process.pid is not None and process.exitcode is None:
                os.kill(process.pid, number)

    def _stop_listening(self, _number: int, _frame: FrameType | None) -> None:
        """Let nobody else connect, to any of the processes. They serve those that wait."""
        for listener in self._listeners:
            refuse_new(listener)
            listener.close()  # else the kernel would accept what nobody answers


def _serve(
    settings: Settings, listeners: list[socket.socket], metrics_file: Path, store: BundleStore
) -> None:
    """Serve as one process of several, which ends with the supervisor.

    It also ends where its bundle cannot be served.
    """
    # Ctrl-C on a terminal is for the supervisor, which passes it on: it must not come twice.
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until uvicorn takes it: nothing has begun
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
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
