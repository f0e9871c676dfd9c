"""The folder in which the processes of a service agree on what they serve.

It holds the bundles' own bytes, and not the path of their folder: that may hold another bundle by
the time at which another process reads it.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from models.bundle import Bundle
from models.files import exclusive_lock, write_atomically
from models.manifest import MANIFEST

STATE_FILE, LOCK_FILE = "state.json", "lock"


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
    def locked(self) -> Iterator[None]:
        """Keep the other processes from changing the store until the end of the block."""
        with exclusive_lock(self._folder / LOCK_FILE):
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

    def _add(self, bundle: Bundle) -> None:
        folder = self.folder_of(bundle.digest)
        if folder.exists():
            return
        temp_folder = Path(tempfile.mkdtemp(dir=self._folder))
        (temp_folder / MANIFEST).write_bytes(bundle.manifest_bytes)
        for kind, artifact in bundle.manifest.artifacts.items():
            (temp_folder / artifact.file).write_bytes(bundle.artifacts[kind])
        temp_folder.rename(folder)
