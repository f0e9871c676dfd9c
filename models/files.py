"""Writing files so that a reader, or a crash, never meets half of one; and locks between processes.

What is written lies beside its place until it is whole, as `.NAME.` and sixteen hexadecimal digits,
locked by its writer. A writer that was killed leaves it, unlocked: the next one for the same place
removes it.

All functions raise `OSError` as the system gives it: only the caller knows what it means for the
user. They need Linux, as the service does: `renameat2(2)` and `flock(2)`.
"""

import ctypes
import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_AT_FDCWD = -100  # <fcntl.h>: paths are relative to the working folder
_RENAME_EXCHANGE = 2  # <linux/fs.h>


@contextmanager
def exclusive_lock(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold a lock on a file or a folder until the end of the block, against other processes.

    A file that is absent is made, and stays: if it were removed, two processes could hold a lock on
    two files of the same name. The system releases the lock of a process that is killed.

    A symbolic link is no lock: it could make a file wherever somebody else wants one.

    Raises `BlockingIOError` where another process holds the lock and `wait` is false.
    """
    flags = os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
    descriptor = os.open(path, flags, 0o644)

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(descriptor)


@contextmanager
def atomic_replacement(path: Path, *, mode: int = 0o666) -> Iterator[Path]:
    """Give a temporary file to write to; at the end of the block it becomes `path`, in one step.

    Readers of `path` see the old content or the new, whole, and so they do after a power cut.
    After an exception in the block, `path` is as it was. The temporary file lies in its folder.

    A file that is replaced keeps its owner and permissions; a new one gets `mode`, less the umask.
    """
    with _temporary(path, lambda temp_path: _create_like(path, temp_path, mode)) as temp_path:
        yield temp_path
        sync(temp_path)
        temp_path.replace(path)
        sync(path.parent)


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """Give a new folder, for this user alone, to be filled and moved to `path`.

    What has its name at the end of the block is removed.
    """
    with _temporary(path, lambda temp_path: temp_path.mkdir(0o700)) as temp_folder:
        yield temp_folder


def remove(path: Path) -> None:
    """Remove a file, if it is there, and what writers that were killed have left beside it."""
    path.unlink(missing_ok=True)
    _remove_abandoned(path)


def write_atomically(path: Path, data: bytes, *, mode: int = 0o666) -> None:
    """Replace the content of a file, or make it, in one step; see `atomic_replacement`."""
    with atomic_replacement(path, mode=mode) as temp_path:
        temp_path.write_bytes(data)


def write_durably(path: Path, data: bytes) -> None:
    """Write a new file, and return once it is on the disk. Raises `FileExistsError`."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Return once a file's content, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def move_folder(source: Path, target: Path) -> None:
    """Give a folder the name `target` in one step.

    A folder that had this name, and was not empty, has the name `source` afterwards. Both names
    must lie in the same file system.
    """
    try:
        source.rename(target)  # succeeds where nothing, or an empty folder, is in the place
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        exchange_folders(source, target)


def exchange_folders(one: Path, other: Path) -> None:
    """Exchange the names of two folders in one step, which Python's own functions cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        raise OSError(errno.ENOSYS, "this system cannot exchange two folders in one step")

    paths = os.fsencode(one), os.fsencode(other)
    if rename(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(other))


@contextmanager
def _temporary(path: Path, create: Callable[[Path], None]) -> Iterator[Path]:
    """Give a temporary file or folder beside `path`, locked until the end, when it is removed."""
    _remove_abandoned(path)
    temp_path, descriptor = _create_locked(path, create)
    try:
        yield temp_path
    finally:
        _remove_whatever(temp_path)
        os.close(descriptor)


def _create_locked(path: Path, create: Callable[[Path], None]) -> tuple[Path, int]:
    while True:
        temp_path = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        try:
            create(temp_path)
            # NFS locks no file that is open to be read alone.
            flags = os.O_RDONLY if temp_path.is_dir() else os.O_RDWR
            descriptor = os.open(temp_path, flags | os.O_NOFOLLOW)
        except FileNotFoundError:
            if not path.parent.is_dir():
                raise
            continue  # another writer took it for abandoned before it was locked
        except BaseException:
            _remove_whatever(temp_path)
            raise
        with suppress(OSError):  # a file system without locks: then nothing is ever abandoned
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if temp_path.exists():
            return temp_path, descriptor
        os.close(descriptor)


def _remove_abandoned(path: Path) -> None:
    """Remove the temporary files and folders of `path` that nobody holds a lock on."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{16}}")
    with suppress(OSError):  # the folder may not be there, or not be ours to list
        for entry in path.parent.iterdir():
            if pattern.fullmatch(entry.name) and (entry.is_file() or entry.is_dir()):
                # It is locked, somebody else's, or just gone.
                with suppress(OSError), exclusive_lock(entry, wait=False):
                    _remove_whatever(entry)


def _remove_whatever(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _create_like(path: Path, temp_path: Path, mode: int) -> None:
    """Make an empty file with the owner and the permissions of `path`, or with `mode`."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        replaced = path.stat()
    except FileNotFoundError:
        os.close(os.open(temp_path, flags, mode))
        return

    descriptor = os.open(temp_path, flags, 0o600)
    try:
        if (replaced.st_uid, replaced.st_gid) != (os.geteuid(), os.getegid()):
            os.fchown(descriptor, replaced.st_uid, replaced.st_gid)
        os.fchmod(descriptor, replaced.st_mode & 0o777)
    finally:
        os.close(descriptor)
