"""Reload: a bundle that was admitted takes the place of the one that is served, while requests go on. Knows nothing of HTTP.

All of it runs in one thread of its own, one reload after the other; what is replaced in the end is one reference. Whatever goes wrong,
the policy that is served stays. Each reload is logged in one line and counted by its outcome.
"""

import asyncio
import logging
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Literal

from models import bundle
from service import admission
from service.admission import NotAdmittedError
from service.policy import Policy
from service.served import Served
from service.settings import Settings
from service.shadow import Shadow
from service.warm_up import exercise

Outcome = Literal["loaded", "unchanged", "refused"]
log = logging.getLogger("uvicorn.error")  # the server's own log, whose handlers uvicorn sets up


@dataclass(frozen=True)
class Reload:
    """What became of a reload."""

    outcome: Outcome
    digest: str  # of the bundle served afterwards
    reason: str | None = None  # why it was refused


class Reloader:
    """Replaces the policy that is served."""

    def __init__(self, settings: Settings, served: Served) -> None:
        self._settings = settings
        self._served = served
        self.shadow = None if served.shadow is None else Shadow(served.shadow, served, settings.shadow_margin)
        self._previous: Policy | None = None
        self._thread = ThreadPoolExecutor(1, "reload")  # one, so that reloads wait for each other
        self._asked = False  # by a signal, and not yet begun

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Reload at SIGHUP, and when the folder changes if the settings say so, until the end of the block."""
        loop = asyncio.get_running_loop()
        signals = threading.current_thread() is threading.main_thread()  # only there can a program take signals
        if signals:
            loop.add_signal_handler(signal.SIGHUP, self._at_signal)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
        if self.shadow is not None:
            self.shadow.start()
        watching = None if self._settings.watch is None else loop.create_task(self._watch(self._settings.watch))
        try:
            yield
        finally:
            if signals:
                loop.remove_signal_handler(signal.SIGHUP)
                signal.signal(signal.SIGHUP, signal.SIG_IGN)  # while it stops there is nothing to reload for
            if watching is not None:
                watching.cancel()
                with suppress(asyncio.CancelledError):
                    await watching
            self._thread.shutdown()
            if self.shadow is not None:
                self.shadow.end()

    async def load(self, name: str | None = None) -> Reload:
        """Load the bundle that lies in the settings' folder; `name` is what it must be called, if that matters."""
        return await self._run(lambda: self._load(name))

    async def rollback(self) -> Reload:
        """Return to the bundle that was served before the last reload."""
        return await self._run(self._rollback)

    async def promote(self) -> Reload:
        """Let the shadow answer, and end the comparison."""
        return await self._run(self._promote)

    async def _run(self, reload: Callable[[], Reload]) -> Reload:
        # A caller that gives up waiting changes nothing: the thread finishes what it has begun.
        return await asyncio.get_running_loop().run_in_executor(self._thread, reload)

    def _at_signal(self) -> None:
        if not self._asked:  # a reload that has not begun will read what this one would
            self._asked = True
            self._thread.submit(self._load, None)

    async def _watch(self, seconds: float) -> None:
        folder = self._settings.bundle
        # What was loaded at the start may have been replaced since; afterwards only a change counts, so that a rollback is not undone.
        seen: object = None
        while True:
            await asyncio.sleep(seconds)
            now = await asyncio.get_running_loop().run_in_executor(self._thread, _look, folder)
            if now != seen:
                seen = now
                await self.load()

    def _load(self, name: str | None) -> Reload:
        self._asked = False

        def admitted() -> Policy:
            served = self._served.policy
            found = bundle.read(self._settings.bundle)
            if name not in (None, found.manifest.name):
                raise NotAdmittedError(f"{found.folder}: the bundle is named {found.manifest.name!r}, not {name!r}")
            if found.digest == served.bundle.digest:
                return served
            return admission.examine(found, self._settings.backend, self._settings.min_score, served.bundle.manifest)

        return self._replace("loaded", admitted)

    def _rollback(self) -> Reload:
        def admitted() -> Policy:
            if self._previous is None:
                raise NotAdmittedError("there is no previous bundle to return to")
            return self._previous

        done = self._replace("rolled back to", admitted)
        if done.outcome == "loaded":
            self._previous = None  # so that a rollback that is asked for twice does not bring back what was left
        return done

    def _promote(self) -> Reload:
        def admitted() -> Policy:
            if self.shadow is None:
                raise NotAdmittedError("there is no shadow to promote")
            served = self._served.policy
            return admission.examine(self.shadow.policy.bundle, self._settings.backend, self._settings.min_score, served.bundle.manifest)

        return self._replace("promoted", admitted)

    def _replace(self, verb: str, admitted: Callable[[], Policy]) -> Reload:
        """Serve what is admitted, if it is; tell and count what became of it."""
        served = self._served.policy
        started = perf_counter()
        try:
            policy = admitted()
            if policy is not served:
                exercise(policy)
        except Exception as error:
            known = isinstance(error, admission.REFUSALS)
            log.error("kept %s: %s", served.bundle.digest, error, exc_info=None if known else error)
            return self._told("refused", str(error) if known else "the service failed to load it; its log says why")
        if policy is served:
            return self._told("unchanged")
        self._previous, self._served.policy = served, policy
        if self.shadow is not None and self.shadow.policy.bundle.digest == policy.bundle.digest:
            self.shadow.end()
            self.shadow = None
        log.info("%s %s in %.1f ms, in place of %s", verb, policy.bundle.digest, (perf_counter() - started) * 1e3, served.bundle.digest)
        return self._told("loaded")

    def _told(self, outcome: Outcome, reason: str | None = None) -> Reload:
        self._served.metrics.happened("upright_reloads", outcome)
        return Reload(outcome, self._served.policy.bundle.digest, reason)


def _look(folder: Path) -> object:
    """Return what differs once another bundle lies in the folder, or one of its files was written."""
    try:
        with os.scandir(folder) as entries:
            files = sorted((entry.name, status.st_ino, status.st_size, status.st_mtime_ns) for entry in entries if (status := entry.stat()))
        return folder.stat().st_ino, files
    except OSError as error:
        return error.errno
