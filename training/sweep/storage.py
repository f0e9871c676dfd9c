"""Where a sweep keeps what must outlive a machine: a folder, or a URL such as s3://bucket/sweep.

sweep.json              what the sweep is: its recipe and its trials
checkpoints/000003.zip  the last checkpoint of a trial that has not ended
rows/000003.json        the results of a trial that has ended
bundles/000003/         the bundle of a trial that passed its gate
results.parquet         all rows as one table, beside README.md and pictures
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from pyarrow import ArrowInvalid, fs

from models import files

THREADS = 16  # a store that is far away answers each read after some hundredths of a second


class StorageError(Exception):
    """Raised when a place for a sweep cannot be used."""


class Storage:
    """Files by name below one folder or URL. A file is replaced in one step.

    All methods raise `StorageError`, which names the place, where it cannot be read or written.
    """

    def __init__(self, place: str) -> None:
        """Use a place: an absolute folder, or a URL that pyarrow knows."""
        self.place = place.rstrip("/")
        try:
            if urlsplit(place).scheme:
                self._files, root = fs.FileSystem.from_uri(self.place)
            else:
                self._files, root = fs.LocalFileSystem(), os.path.abspath(self.place)  # noqa: PTH100 - it may not exist
        except (ArrowInvalid, OSError) as error:
            raise StorageError(
                f"{place}: no storage by this name ({_first_line(error)})"
            ) from error
        self._root = root.rstrip("/")
        # As a folder of this machine, or of a file system that machines share.
        self.folder = Path(self._root) if self._files.type_name == "local" else None

    def read(self, name: str) -> bytes | None:
        """Return the content of a file; none if it is not there."""
        with self._explained():
            try:
                with self._files.open_input_file(self._path(name)) as file:
                    content: bytes = file.read()
                    return content
            except FileNotFoundError:
                return None

    def read_all(self, names: list[str]) -> list[bytes]:
        """Return the contents of files that are there, in their order."""
        with ThreadPoolExecutor(THREADS) as pool:
            return [content for content in pool.map(self.read, names) if content is not None]

    def write(self, name: str, content: bytes) -> None:
        """Write a file: a reader sees the old content or the new, whole."""
        with self._explained():
            if self.folder is not None:
                path = self.folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                files.write_atomically(path, content)
                return
            with self._files.open_output_stream(self._path(name)) as file:
                file.write(content)  # an object appears in its store once it is whole

    def write_folder(self, name: str, source: Path) -> None:
        """Write the files of a folder; those that another writer left there are replaced."""
        for path in sorted(source.iterdir()):
            self.write(f"{name}/{path.name}", path.read_bytes())

    def remove(self, name: str) -> None:
        """Remove a file, if it is there, and what a writer that was killed has left of it."""
        with self._explained():
            if self.folder is not None:
                files.remove(self.folder / name)
                return
            try:
                self._files.delete_file(self._path(name))
            except FileNotFoundError:
                return

    def names(self, folder: str = "") -> list[str]:
        """Return the names of what lies in a folder, sorted; none where there is no folder."""
        selector = fs.FileSelector(self._path(folder), allow_not_found=True)
        with self._explained():
            names = [info.base_name for info in self._files.get_file_info(selector)]
        return sorted(name for name in names if not name.startswith("."))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other drivers out while one works here.

        A URL has no locks: who gives the same one twice is not stopped.
        """
        if self.folder is None:
            yield
            return

        with self._explained():
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = files.exclusive_lock(self.folder / ".lock", wait=False)
            try:
                lock.__enter__()
            except BlockingIOError as error:
                raise StorageError(
                    f"{self.place}: another sweep is at work here; give another --storage"
                ) from error
        try:
            yield
        finally:
            lock.__exit__(None, None, None)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(
                f"{self.place}: cannot be used ({error.strerror or _first_line(error)});"
                " give another --storage"
            ) from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:300]
