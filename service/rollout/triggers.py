"""What makes a service reload without a request: SIGHUP, a changed folder, another process."""

import asyncio
import logging
import signal
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from service.observability import systemd
from service.rollout.reloader import Reloader
from service.settings import Settings
from service.state import ServiceState

log = logging.getLogger("uvicorn.error")

SYNC_SECONDS = 0.1  # between two looks at what other processes have loaded


@asynccontextmanager
async def reload_triggers(
    settings: Settings, service_state: ServiceState, reloader: Reloader
) -> AsyncIterator[None]:
    """Watch for reasons to reload until the end of the block."""
    loop = asyncio.get_running_loop()
    takes_signals = threading.current_thread() is threading.main_thread()
    tasks: list[asyncio.Task[None]] = []

    if reloader.store is not None:
        await reloader.sync()  # what others have loaded while this process started
        tasks.append(loop.create_task(_every(SYNC_SECONDS, reloader.sync)))
    reloader.start()
    if settings.watch is not None:
        tasks.append(loop.create_task(_every(settings.watch, reloader.load_if_changed)))
        renewal = SecretsRenewal(settings, service_state)
        tasks.append(loop.create_task(_every(settings.watch, renewal.renew_if_changed)))

    def reload_everything() -> None:
        systemd.notify_reloading()
        try:
            service_state.renew_secrets()
        finally:  # whatever became of them, the bundle is another matter
            reloader.queue_load(done=lambda: systemd.notify(systemd.READY))

    if takes_signals:
        # Not by `loop.add_signal_handler`, whose removal, as the loop closes, gives a signal its
        # default action back: SIGHUP would end the process by another status than its own.
        signal.signal(signal.SIGHUP, lambda *_: loop.call_soon_threadsafe(reload_everything))
        # It was blocked from the start of the process: one that came earlier is taken now.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        if takes_signals:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a service that stops has nothing to load
            await asyncio.sleep(0)  # one that came just before begins before the reloader stops
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        reloader.stop()


class SecretsRenewal:
    """Reads keys and certificate again when one of their files has changed.

    Tools that renew them put a new file, or a new target of a link, in the place of the old one.
    """

    def __init__(self, settings: Settings, service_state: ServiceState) -> None:
        names = (settings.keys, settings.tls_cert, settings.tls_key, settings.tls_client_ca)
        self._files = [name for name in names if name is not None]
        self._service_state = service_state
        self._fingerprint = self._present()

    async def renew_if_changed(self) -> None:
        """Look at the files, and read them again if they are others."""
        present = self._present()
        if present != self._fingerprint:
            self._fingerprint = present
            self._service_state.renew_secrets()

    def _present(self) -> list[tuple[int, int, int] | None]:
        return [_identity(file) for file in self._files]


def _identity(file: Path) -> tuple[int, int, int] | None:
    """Return what tells a file from another at its path; None if there is none now."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


async def _every(seconds: float, work: Callable[[], Coroutine[Any, Any, object]]) -> None:
    failure = ""
    while True:
        await asyncio.sleep(seconds)
        try:
            await work()
        except Exception as error:
            # Whatever it was may be over the next time; until then it is logged once.
            if str(error) != failure:
                failure = str(error)
                log.error(
                    "cannot see whether there is another bundle to serve: %s",
                    error,
                    # A folder that is cleaned in this moment is no fault of the program.
                    exc_info=None if isinstance(error, OSError) else error,
                )
        else:
            failure = ""
