"""Puts another bundle in the place of the one that is served, while requests go on.

All of it runs in one thread of its own, one reload after the other; in the end one reference is
replaced. Whatever goes wrong, the policy that is served stays. Each reload is logged in one line
and counted by its outcome.
"""

import asyncio
import logging
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Literal

from models import bundle
from models.bundle import Bundle
from service.inference import admission, signature
from service.inference.errors import NotAdmittedError
from service.inference.policy import Policy
from service.rollout.bundle_store import BundleStore, RolloutState
from service.rollout.shadow import Shadow
from service.rollout.warm_up import exercise
from service.settings import Settings
from service.state import ServiceState

# unavailable: there is no bundle to go back to, or no shadow to promote
Outcome = Literal["loaded", "unchanged", "refused", "unavailable"]
STOP_SECONDS = 2.0  # that a stop waits for a reload

log = logging.getLogger("uvicorn.error")


@dataclass(frozen=True)
class Reload:
    """What became of a reload."""

    outcome: Outcome
    digest: str  # of the bundle that is served afterwards
    reason: str | None = None  # why the bundle was not replaced


class Reloader:
    """Replaces the policy that is served; other processes of the service load the same one."""

    def __init__(
        self,
        settings: Settings,
        service_state: ServiceState,
        shadow: Policy | None = None,
        store: BundleStore | None = None,
    ) -> None:
        self.store = store  # where the processes agree; None if there is one
        self.shadow: Shadow | None = None  # None: there is none, or it is not compared any more
        if shadow is not None:
            self.shadow = Shadow(shadow, service_state, settings.shadow_margin)
        self._settings = settings
        self._service_state = service_state
        self._had_shadow = shadow is not None
        self._previous: Policy | None = None
        self._fingerprint: str | None = None  # of the bundle's folder when it was last loaded from
        self._synced: RolloutState | None = None  # the store's state when it was last read here
        self._thread = ThreadPoolExecutor(1, "reload")  # one: reloads wait for each other
        self._is_load_queued = False
        self._running: list[Future[Reload]] = []  # those that were asked for and have not ended

    # What can be asked for

    async def load(self, name: str | None = None) -> Reload:
        """Load the bundle in the settings' folder; with `name` only if it has this name."""
        return await self._submit(lambda: self._load(name))

    async def load_if_changed(self) -> Reload:
        """Load the bundle in the settings' folder if the folder has changed since the last time.

        It is not compared with what is served: a rollback is not undone, and a bad bundle is
        refused once.
        """
        return await self._submit(
            lambda: (
                self._unchanged()
                if fingerprint(self._settings.bundle) == self._fingerprint
                else self._load(None)
            )
        )

    async def rollback(self) -> Reload:
        """Return to the bundle that was served before the last reload."""
        return await self._submit(self._rollback)

    async def promote(self) -> Reload:
        """Let the shadow answer, and end the comparison."""
        return await self._submit(self._promote)

    async def sync(self) -> None:
        """Serve what another process has loaded, if it is not served here yet."""
        if self.store is not None and self.store.read() != self._synced:
            await self._submit(self._unchanged)

    def queue_load(self, done: Callable[[], None]) -> None:
        """Load the bundle in the settings' folder soon; for a signal handler, which cannot wait.

        `done` is called afterwards, in another thread.
        """
        if not self._is_load_queued:  # one that has not begun will read what this one would
            self._is_load_queued = True
            self._start(lambda: self._load(None)).add_done_callback(lambda _: done())

    def start(self) -> None:
        """Begin to compare the shadow, if there is one."""
        if self.shadow is not None:
            self.shadow.start()

    def stop(self) -> None:
        """Wait a while for a reload that has begun, and end the comparison."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        wait(self._running, STOP_SECONDS)
        if not self.has_ended:
            log.error("a reload does not end; the service ends without it")
        self._end_shadow()

    @property
    def has_ended(self) -> bool:
        """Whether no reload runs any more. A policy that never answers cannot be interrupted."""
        return all(future.done() for future in self._running)

    # One at a time

    async def _submit(self, work: Callable[[], Reload]) -> Reload:
        # A caller that is cancelled changes nothing: the thread finishes what it has begun.
        return await asyncio.wrap_future(self._start(work))

    def _start(self, work: Callable[[], Reload]) -> Future[Reload]:
        future = self._thread.submit(self._run_exclusively, work)
        self._running = [each for each in self._running if not each.done()] + [future]
        return future

    def _run_exclusively(self, work: Callable[[], Reload]) -> Reload:
        """Do the work while no other process does any, from what they serve; store the result."""
        try:
            if self.store is None:
                return work()
            with self.store.locked():
                before = self._pull(self.store)
                result = work()
                self._push(self.store, before)
                return result
        except Exception:
            log.exception("the processes of the service could not agree on a bundle")
            digest = self._service_state.policy.bundle.digest
            return Reload("refused", digest, "the service failed; its log says why")

    def _unchanged(self) -> Reload:
        return Reload("unchanged", self._service_state.policy.bundle.digest)

    def _load(self, name: str | None) -> Reload:
        self._is_load_queued = False
        self._fingerprint = fingerprint(self._settings.bundle)

        def admit() -> Policy:
            candidate = bundle.read(self._settings.bundle)
            if name not in (None, candidate.manifest.name):
                raise NotAdmittedError(
                    f"{candidate.folder}: the bundle is named {candidate.manifest.name!r},"
                    f" not {name!r}"
                )
            signature.check(candidate, self._settings.verify_key)
            return self._examine(candidate)

        return self._replace("loaded", admit)

    def _rollback(self) -> Reload:
        previous = self._previous
        if previous is None:
            return self._finish("unavailable", "there is no previous bundle to return to")
        result = self._replace("rolled back to", lambda: previous)
        if result.outcome == "loaded":
            self._previous = None  # a second rollback must not bring back what was left
        return result

    def _promote(self) -> Reload:
        shadow = self.shadow
        if shadow is None:
            return self._finish("unavailable", "there is no shadow to promote")
        return self._replace("promoted", lambda: self._examine(shadow.policy.bundle))

    # Replacing the policy

    def _examine(self, candidate: Bundle) -> Policy:
        live = self._service_state.policy
        if candidate.digest == live.bundle.digest:
            return live
        return admission.examine(
            candidate, self._settings.backend, self._settings.min_score, live.bundle.manifest
        )

    def _replace(self, verb: str, admit: Callable[[], Policy]) -> Reload:
        """Serve the policy that `admit` returns, unless it raises; log and count the outcome."""
        live = self._service_state.policy
        started = perf_counter()
        try:
            policy = admit()
            if policy is not live:
                exercise(policy)
        except Exception as error:
            return self._refuse(live.bundle.digest, error)
        if policy is live:
            log.info("the bundle is unchanged: %s", live.bundle.digest)
            return self._finish("unchanged")

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
        return self._finish("loaded")

    def _refuse(self, live: str, error: Exception) -> Reload:
        expected = isinstance(error, admission.REFUSALS)
        log.error(
            "kept %s: %s",
            live,
            error,
            exc_info=None if expected else error,
            extra={"digest": live},
        )
        reason = str(error) if expected else "the service failed to load it; its log says why"
        return self._finish("refused", reason)

    def _finish(self, outcome: Outcome, reason: str | None = None) -> Reload:
        self._service_state.metrics.inc("upright_reloads", outcome)
        return Reload(outcome, self._service_state.policy.bundle.digest, reason)

    def _end_shadow(self) -> None:
        if self.shadow is not None:
            self.shadow.stop()
            self.shadow = None

    # Several processes

    def _pull(self, store: BundleStore) -> RolloutState:
        """Serve what another process has stored since the last time; return the store's state."""
        self._synced = state = store.read()
        live = self._service_state.policy
        known = {each.bundle.digest: each for each in (live, self._previous) if each is not None}

        def policy_of(digest: str) -> Policy:
            if digest in known:
                return known[digest]
            return self._examine(bundle.read(store.folder_of(digest)))

        policy = policy_of(state.live)
        self._previous = None if state.previous is None else policy_of(state.previous)
        self._fingerprint = state.fingerprint
        if not state.compares_shadow:
            self._end_shadow()
        if policy is not live:
            exercise(policy)
            self._service_state.replace_policy(policy)
            log.info("followed to %s, in place of %s", policy.bundle.digest, live.bundle.digest)
        return state

    def _push(self, store: BundleStore, before: RolloutState) -> None:
        """Store what this process serves, if that has changed."""
        live, previous = self._service_state.policy.bundle, self._previous
        state = RolloutState(
            live=live.digest,
            previous=None if previous is None else previous.bundle.digest,
            fingerprint=self._fingerprint,
            compares_shadow=before.compares_shadow
            and (self.shadow is not None or not self._had_shadow),
        )
        if state != before:
            store.write(state, live, *([] if previous is None else [previous.bundle]))
            self._synced = state


def fingerprint(folder: Path) -> str:
    """Return a text that differs once a file in the folder is another one or was written."""
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
