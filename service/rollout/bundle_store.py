"""The folder in which the processes of a service agree on what they serve.

It holds the bundles' own bytes, and not the path of their folder: that may hold another bundle by
the time at which another process reads it.
"""

import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from models.bundle import Bundle, BundleError
from models.bundle import read as read_bundle
from models.files import exclusive_lock, write_atomically
from models.manifest import MANIFEST

STATE_FILE, LOCK_FILE = "state.json", "lock"

log = logging.getLogger("uvicorn.error")


class RolloutState(BaseModel):
    """What the processes serve."""

    model_config = ConfigDict(frozen=True)

    live: str  # digest of the bundle that is served
    previous: str | None = None  # digest of the bundle that a rollback returns to
    fingerprint: str | None = None  # of the bundle's folder when it was last loaded from
    compares_shadow: bool = True  # whether a shadow, if there is one, is still compared


class BundleStore:
    """The shared folder. Whoever made it removes it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def locked(self, *, wait: bool = True) -> Iterator[None]:
        """Keep the other processes from changing the store until the end of the block.

        Raises `BlockingIOError` where another process does that and `wait` is false.
        """
        with exclusive_lock(self._folder / LOCK_FILE, wait=wait):
            yield

    def read(self) -> RolloutState:
        """Return what is to be served."""
        return RolloutState.model_validate_json((self._folder / STATE_FILE).read_bytes())

    def folder_of(self, digest: str) -> Path:
        """Return the folder of a stored bundle."""
        return self._folder / digest.removeprefix("sha256:")

    def write(self, state: RolloutState, *bundles: Bundle) -> None:
        """Store what is to be served, and remove all bundles but those that the state names."""
        for bundle in bundles:
            self._add(bundle)
        write_atomically(self._folder / STATE_FILE, state.model_dump_json().encode())

        named = {self.folder_of(digest).name for digest in (state.live, state.previous) if digest}
        for folder in self._folder.iterdir():
            if folder.is_dir() and folder.name not in named:
                for file in folder.iterdir():
                    file.unlink()
                folder.rmdir()

    def holds(self, bundle: Bundle) -> bool:
        """Return whether every file of a bundle is there, with its size."""
        folder = self.folder_of(bundle.digest)
        sizes = {artifact.file: artifact.size for artifact in bundle.manifest.artifacts.values()}
        sizes[MANIFEST] = len(bundle.manifest_bytes)
        return all((folder / file).stat().st_size == size for file, size in sizes.items())

    def restore(self, state: RolloutState, *bundles: Bundle) -> None:
        """Write all anew, whatever is left."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        with self.locked():
            for bundle in bundles:
                shutil.rmtree(self.folder_of(bundle.digest), ignore_errors=True)
            self.write(state, *bundles)

    def _add(self, bundle: Bundle) -> None:
        folder = self.folder_of(bundle.digest)
        if folder.exists():
            return
        temp_folder = Path(tempfile.mkdtemp(dir=self._folder))
        try:
            (temp_folder / MANIFEST).write_bytes(bundle.manifest_bytes)
            for kind, artifact in bundle.manifest.artifacts.items():
                (temp_folder / artifact.file).write_bytes(bundle.artifacts[kind])
            temp_folder.rename(folder)
        except BaseException:
            shutil.rmtree(temp_folder, ignore_errors=True)
            raise


class StoreKeeper:
    """Remembers what a store holds, and puts it back where somebody has removed it.

    Temporary folders are cleaned, by systemd after ten days. Without the bundle's files no process
    could be started in the place of one that ended.
    """

    def __init__(self, store: BundleStore, live: Bundle) -> None:
        self.store = store
        self._state = RolloutState(live=live.digest)
        self._bundles = {live.digest: live}

    def check(self) -> None:
        """Remember what was stored since the last time; put back what is missing."""
        try:
            with self.store.locked(wait=False):
                is_whole = self._remember()
        except BlockingIOError:  # a process is changing it
            return
        except (OSError, ValueError, BundleError):  # something is missing, or only half there
            is_whole = False
        if not is_whole:
            self._put_back()

    def _remember(self) -> bool:
        """Remember what is stored, and return whether all of it is there."""
        state = self.store.read()
        digests = [digest for digest in (state.live, state.previous) if digest is not None]
        if state != self._state:
            self._bundles = {each: self._bundle(each) for each in digests}
            self._state = state
        return all(self.store.holds(self._bundles[digest]) for digest in digests)

    def _bundle(self, digest: str) -> Bundle:
        return self._bundles.get(digest) or read_bundle(self.store.folder_of(digest))

    def _put_back(self) -> None:
        try:
            self.store.restore(self._state, *self._bundles.values())
        except OSError as error:
            log.error("cannot put back the bundles that the processes share: %s", error)
        else:
            log.warning("put back the bundles that the processes share: somebody had removed them")
