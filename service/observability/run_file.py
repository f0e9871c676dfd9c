"""What a running process of the service tells on this machine: that it runs, and how to ask it.

Each process keeps a file in a folder that is its user's alone, and touches it each second. So
whoever may ask as that user finds the service whatever its flags are, also one that is reached by a
Unix socket alone or wants certificates of its clients. `python -m service health` reads it.

The time of the last touch is that of the clock that runs since the system began, which all
processes share and nobody sets: on disk the file looks as if it were of 1970.
"""

import json
import os
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import monotonic

from models.files import write_atomically

STALE_SECONDS = 5.0  # without a touch: the event loop does not turn
SUFFIX = ".json"


class NoFolderError(Exception):
    """Raised where there is no folder that is this user's alone."""


@dataclass(frozen=True)
class RunningProcess:
    """A process as its file tells of it."""

    pid: int
    address: str  # as a person writes it: http://…, https://… or unix:…
    is_ready: bool
    started: str  # by the system's clock: a process that began later may have the same number
    seconds_since_touch: float = 0.0

    @property
    def is_stuck(self) -> bool:
        """Whether it has not touched its file for too long."""
        return self.seconds_since_touch > STALE_SECONDS


class RunFile:
    """The file of a process. Where it cannot be written, nothing is told, and nothing fails."""

    def __init__(self, address: str) -> None:
        pid = os.getpid()
        self._process = RunningProcess(pid, address, is_ready=True, started=_start_of(pid))
        try:
            self._path: Path | None = folder() / f"{self._process.pid}{SUFFIX}"
        except NoFolderError:
            self._path = None

    def write(self, *, is_ready: bool) -> None:
        """Tell that the process runs, and whether it takes requests."""
        if self._path is None:
            return
        try:
            if not self._path.exists() or is_ready != self._process.is_ready:
                self._process = replace(self._process, is_ready=is_ready)
                write_atomically(self._path, json.dumps(asdict(self._process)).encode(), mode=0o600)
            now = monotonic()
            os.utime(self._path, (now, now))
        except OSError:
            return

    def remove(self) -> None:
        """Tell nothing more."""
        if self._path is not None:
            try:
                self._path.unlink(missing_ok=True)
            except OSError:
                return


def running_processes() -> Iterator[RunningProcess]:
    """Give the processes of this user that run. Raises `NoFolderError`."""
    for path in sorted(folder().glob(f"*{SUFFIX}")):
        try:
            content = json.loads(path.read_bytes())
            process = RunningProcess(
                int(content["pid"]),
                str(content["address"]),
                bool(content["is_ready"]),
                str(content["started"]),
                monotonic() - path.stat().st_mtime,
            )
            os.kill(process.pid, 0)
        except (OSError, ValueError, KeyError, TypeError):  # it has ended, or has just begun
            continue
        if process.started == _start_of(process.pid):
            yield process


def folder() -> Path:
    """Return the folder of this user's processes, and make it. Raises `NoFolderError`."""
    given = os.environ.get("RUNTIME_DIRECTORY") or os.environ.get("XDG_RUNTIME_DIR")
    try:
        place = Path(given.partition(":")[0] if given else tempfile.gettempdir())
    except FileNotFoundError as error:  # no folder for temporary files can be written
        raise NoFolderError(str(error)) from error
    path = place / f"upright-{os.getuid()}"
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        status = path.lstat()
    except OSError as error:
        raise NoFolderError(f"{path}: {error.strerror}") from error
    # In a folder that others may write to, somebody else may have made it, or a link.
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise NoFolderError(f"{path}: is not a folder of this user alone")
    return path


def _start_of(pid: int) -> str:
    """Return when a process began, in ticks since the system did; empty where nothing says so."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
