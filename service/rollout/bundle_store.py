"""Shelf: what all processes of the service are to serve, in a folder that they share. Bundles in by who loaded them, out by the others.

It holds the bundles' own bytes, not their place: that may hold another bundle by the time at which the others look.
"""

import fcntl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from models.bundle import Bundle
from models.manifest import MANIFEST

STATE, LOCK = "state.json", "lock"


class Shelved(BaseModel):
    """What is to be served, and what is known beside it."""

    model_config = ConfigDict(frozen=True)

    live: str  # digest of the bundle that is served
    previous: str | None = None  # and of the one that a rollback returns to
    seen: str | None = None  # how the bundle's folder looked when it was last loaded from
    shadow: bool = True  # whether a shadow, if there is one, is still compared


class Shelf:
    """The shared folder. It belongs to whoever made it, and goes with it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep the other processes from changing what is on the shelf until the end of the block."""
        with (self._folder / LOCK).open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def read(self) -> Shelved:
        """Return what is to be served."""
        return Shelved.model_validate_json((self._folder / STATE).read_bytes())

    def place(self, digest: str) -> Path:
        """Return the folder of a bundle that is on the shelf."""
        return self._folder / digest.removeprefix("sha256:")

    def put(self, state: Shelved, *bundles: Bundle) -> None:
        """Say what is to be served; `bundles` are those that the state names. All others are given up."""
        for each in bundles:
            self._keep(each)
        with tempfile.NamedTemporaryFile(dir=self._folder, delete=False) as beside:
            beside.write(state.model_dump_json().encode())
        Path(beside.name).replace(self._folder / STATE)
        named = {
            self.place(digest).name for digest in (state.live, state.previous) if digest is not None
        }
        for place in self._folder.iterdir():
            if place.is_dir() and place.name not in named:
                for file in place.iterdir():
                    file.unlink()
                place.rmdir()

    def _keep(self, bundle: Bundle) -> None:
        place = self.place(bundle.digest)
        if place.exists():
            return
        beside = Path(tempfile.mkdtemp(dir=self._folder))
        (beside / MANIFEST).write_bytes(bundle.manifest_bytes)
        for kind, artifact in bundle.manifest.artifacts.items():
            (beside / artifact.file).write_bytes(bundle.artifacts[kind])
        beside.rename(place)
