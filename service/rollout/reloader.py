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
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Literal

from models import bundle
from models.bundle import Bundle
from service.inference import admission
from service.inference.admission import NotAdmittedError
from service.inference.policy import Policy
from service.rollout.bundle_store import Shelf, Shelved
from service.rollout.shadow import Shadow
from service.rollout.warm_up import exercise
from service.settings import Settings
from service.state import ServiceState

FOLLOW_SECONDS = 0.1  # between two looks at what other processes have loaded
Outcome = Literal["loaded", "unchanged", "refused"]
log = logging.getLogger("uvicorn.error")  # the server's own log, whose handlers uvicorn sets up


@dataclass(frozen=True)
class Reload:
    """What became of a reload."""

    outcome: Outcome
    digest: str  # of the bundle served afterwards
    reason: str | None = None  # why it was refused


class Reloader:
    """Replaces the policy that is served. Where several processes serve, what one of them loads is loaded by all."""

    def __init__(
        self,
        settings: Settings,
        service_state: ServiceState,
        shadow: Policy | None = None,
        store: Shelf | None = None,
    ) -> None:
        self._settings = settings
        self._service_state = service_state
        self._store = store  # where the processes agree on what they serve, if there are several
        self._has_shadow = shadow is not None
        self.shadow = (
            None if shadow is None else Shadow(shadow, service_state, settings.shadow_margin)
        )
        self._previous: Policy | None = None
        self._seen: str | None = None  # how the folder looked when it was last loaded from
        self._followed: Shelved | None = None  # what was on the shelf when this process last looked
        self._thread = ThreadPoolExecutor(1, "reload")  # one, so that reloads wait for each other
        self._asked = False  # by a signal, and not yet begun

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Reload at SIGHUP, when the folder changes if the settings say so, and when another process did, until the end of the block."""
        loop = asyncio.get_running_loop()
        signals = (
            threading.current_thread() is threading.main_thread()
        )  # only there can a program take signals
        tasks: list[asyncio.Task[None]] = []
        if self._store is not None:
            await self._run(self._nothing)  # what was loaded by others while this one started
            tasks.append(loop.create_task(self._follow_on(self._store)))
        if self.shadow is not None:
            self.shadow.start()
        if self._settings.watch is not None:
            tasks.append(loop.create_task(self._watch(self._settings.watch)))
        if signals:
            loop.add_signal_handler(signal.SIGHUP, self._at_signal)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
        try:
            yield
        finally:
            if signals:
                loop.remove_signal_handler(signal.SIGHUP)
                signal.signal(
                    signal.SIGHUP, signal.SIG_IGN
                )  # while it stops there is nothing to reload for
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
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

    async def _run(self, work: Callable[[], Reload]) -> Reload:
        # A caller that gives up waiting changes nothing: the thread finishes what it has begun.
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._alone, work)

    def _at_signal(self) -> None:
        self._service_state.renew_secrets()
        if not self._asked:  # a reload that has not begun will read what this one would
            self._asked = True
            self._thread.submit(self._alone, lambda: self._load(None))

    async def _watch(self, seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds)
            await self._run(self._look)

    async def _follow_on(self, shelf: Shelf) -> None:
        while True:
            await asyncio.sleep(FOLLOW_SECONDS)
            if shelf.read() != self._followed:
                await self._run(self._nothing)

    def _alone(self, work: Callable[[], Reload]) -> Reload:
        """Do the work while no other process does any, from where the others are, and let them know."""
        try:
            if self._store is None:
                return work()
            with self._store.locked():
                before = self._follow(self._store)
                done = work()
                self._publish(self._store, before)
                return done
        except Exception:
            log.exception("the processes of the service could not agree on a bundle")
            return Reload(
                "refused",
                self._service_state.policy.bundle.digest,
                "the service failed; its log says why",
            )

    def _nothing(self) -> Reload:
        return Reload("unchanged", self._service_state.policy.bundle.digest)

    def _look(self) -> Reload:
        # Only a change counts, not a difference to what is served: a rollback is not undone, and a bad bundle is refused once.
        return self._nothing() if _looks(self._settings.bundle) == self._seen else self._load(None)

    def _load(self, name: str | None) -> Reload:
        self._asked = False
        self._seen = _looks(self._settings.bundle)

        def admitted() -> Policy:
            found = bundle.read(self._settings.bundle)
            if name not in (None, found.manifest.name):
                raise NotAdmittedError(
                    f"{found.folder}: the bundle is named {found.manifest.name!r}, not {name!r}"
                )
            return self._examined(found)

        return self._replace("loaded", admitted)

    def _rollback(self) -> Reload:
        def admitted() -> Policy:
            if self._previous is None:
                raise NotAdmittedError("there is no previous bundle to return to")
            return self._previous

        done = self._replace("rolled back to", admitted)
        if done.outcome == "loaded":
            self._previous = (
                None  # so that a rollback that is asked for twice does not bring back what was left
            )
        return done

    def _promote(self) -> Reload:
        def admitted() -> Policy:
            if self.shadow is None:
                raise NotAdmittedError("there is no shadow to promote")
            return self._examined(self.shadow.policy.bundle)

        return self._replace("promoted", admitted)

    def _examined(self, found: Bundle) -> Policy:
        live = self._service_state.policy
        if found.digest == live.bundle.digest:
            return live
        return admission.examine(
            found, self._settings.backend, self._settings.min_score, live.bundle.manifest
        )

    def _replace(self, verb: str, admitted: Callable[[], Policy]) -> Reload:
        """Serve what is admitted, if it is; tell and count what became of it."""
        live = self._service_state.policy
        started = perf_counter()
        try:
            policy = admitted()
            if policy is not live:
                exercise(policy)
        except Exception as error:
            known = isinstance(error, admission.REFUSALS)
            log.error(
                "kept %s: %s",
                live.bundle.digest,
                error,
                exc_info=None if known else error,
                extra={"digest": live.bundle.digest},
            )
            return self._told(
                "refused",
                str(error) if known else "the service failed to load it; its log says why",
            )
        if policy is live:
            return self._told("unchanged")
        self._previous = live
        self._service_state.replace_policy(policy)
        if self.shadow is not None and self.shadow.policy.bundle.digest == policy.bundle.digest:
            self._end_shadow()
        log.info(
            "%s %s in %.1f ms, in place of %s",
            verb,
            policy.bundle.digest,
            (perf_counter() - started) * 1e3,
            live.bundle.digest,
        )
        return self._told("loaded")

    def _told(self, outcome: Outcome, reason: str | None = None) -> Reload:
        self._service_state.metrics.inc("upright_reloads", outcome)
        return Reload(outcome, self._service_state.policy.bundle.digest, reason)

    def _end_shadow(self) -> None:
        if self.shadow is not None:
            self.shadow.end()
            self.shadow = None

    def _follow(self, shelf: Shelf) -> Shelved:
        """Serve what another process has put on the shelf since, and return what is there."""
        self._followed = state = shelf.read()
        live = self._service_state.policy
        known = {
            policy.bundle.digest: policy for policy in (live, self._previous) if policy is not None
        }

        def of(digest: str) -> Policy:
            return (
                known[digest]
                if digest in known
                else self._examined(bundle.read(shelf.place(digest)))
            )

        policy = of(state.live)
        self._previous, self._seen = (
            None if state.previous is None else of(state.previous),
            state.seen,
        )
        if not state.shadow:
            self._end_shadow()
        if policy is not live:
            exercise(policy)
            self._service_state.replace_policy(policy)
            log.info("followed to %s, in place of %s", policy.bundle.digest, live.bundle.digest)
        return state

    def _publish(self, shelf: Shelf, before: Shelved) -> None:
        """Put on the shelf what this process serves, if that has changed."""
        kept = [
            policy.bundle
            for policy in (self._service_state.policy, self._previous)
            if policy is not None
        ]
        live, previous = (*(each.digest for each in kept), None)[:2]
        now = Shelved(
            live=live,
            previous=previous,
            seen=self._seen,
            shadow=before.shadow and (not self._has_shadow or self.shadow is not None),
        )
        if now != before:
            shelf.put(now, *kept)
            self._followed = now


def _looks(folder: Path) -> str:
    """Return what differs once another bundle lies in the folder, or one of its files was written."""
    try:
        with os.scandir(folder) as entries:
            files = sorted(
                (entry.name, status.st_ino, status.st_size, status.st_mtime_ns)
                for entry in entries
                if (status := entry.stat())
            )
        return repr((folder.stat().st_ino, files))
    except OSError as error:
        return repr(error.errno)
