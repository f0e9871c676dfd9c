"""The files of a decision record: their names, and which process writes which.

A record is a family of files beside each other, here for `--record decisions.sqlite`:

    decisions.sqlite                            what the service writes now
    decisions.20261123T101500.123456Z.sqlite    an older file, by the UTC time of its first decision
    decisions.sqlite.lock                       locked while a process writes `decisions.sqlite`
    decisions-1.sqlite, decisions-1.2026….sqlite, decisions-1.sqlite.lock, …   of a second process

Processes never share a file: each takes the first one that nobody writes. So no writer waits for
another.
"""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from models.files import exclusive_lock
from service.records.schema import RecordError

FILE_LIMIT = 256  # files of one record that can be written at the same time
STAMP = "%Y%m%dT%H%M%S.%fZ"


class RecordFile(NamedTuple):
    """A file of a record, and the one that it was set aside from, or is."""

    path: Path
    written_as: Path
    stamp: str  # empty if it was not set aside


@contextmanager
def claimed_file(record: Path) -> Iterator[Path]:
    """Hold the first file of a record that no other writer holds. Raises `RecordError`."""
    if record.name in ("", ".."):
        raise RecordError(f"{record}: is a folder; a record is a file")
    if not _is_utf8(record):
        raise RecordError(f"{record}: SQLite opens only files whose names are UTF-8")

    for number in range(FILE_LIMIT):
        path = record.with_name(f"{record.stem}-{number}{record.suffix}") if number else record
        with ExitStack() as stack:
            try:
                lock = path.with_name(f"{path.name}.lock")
                stack.enter_context(exclusive_lock(lock, wait=False))
            except BlockingIOError:
                continue
            except OSError as error:
                raise RecordError(
                    f"{record}: no record can be written here ({error.strerror})"
                ) from error
            yield path
            return
    raise RecordError(f"{record}: {FILE_LIMIT} files of this record are being written already")


def _is_utf8(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def set_aside(path: Path, first_time: float) -> None:
    """Give a file that is written no more its sortable name, by the time of its first decision."""
    moment = datetime.fromtimestamp(first_time, UTC)
    while True:
        target = path.with_name(f"{path.stem}.{moment.strftime(STAMP)}{path.suffix}")
        if not target.exists():
            path.rename(target)
            return
        moment += timedelta(microseconds=1)


def remove_oldest(path: Path, keep: int) -> None:
    """Remove what was set aside from a file, but for the newest `keep`."""
    older = [file.path for file in family(path) if file.written_as == path and file.stamp]
    for file in older[: max(0, len(older) - keep)]:
        file.unlink()


def family(record: Path) -> list[RecordFile]:
    """Return the files of a record; of an older file's name, that file alone.

    Of the files that one process wrote, the oldest comes first.
    """
    stem, suffix = re.escape(record.stem), re.escape(record.suffix)
    pattern = re.compile(rf"({stem}(?:-\d+)?)(\.\d{{8}}T\d{{6}}\.\d{{6}}Z)?{suffix}")
    paths = record.parent.iterdir() if record.parent.is_dir() else ()
    files = [
        RecordFile(path, record.with_name(match[1] + record.suffix), match[2] or "")
        for path in paths
        if (match := pattern.fullmatch(path.name))
    ]
    return sorted(files, key=lambda file: (file.written_as, not file.stamp, file.stamp))
