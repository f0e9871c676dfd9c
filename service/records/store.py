"""The decision record: answered inferences in, rows of SQLite files out, and back again. Knows nothing of HTTP, queues and threads.

A record is a family of files beside each other, here for `--record decisions.sqlite`:

    decisions.sqlite                            what the service writes now
    decisions.20261123T101500.123456Z.sqlite    an older file, named by the UTC time of its first decision
    decisions-1.sqlite, decisions-1.2026….sqlite, …   the same of a second process, and so on
    decisions.sqlite.lock                       says which of them a living process writes

Processes never share a file: each takes the first one that nobody writes. So no writer waits for another.
"""

import fcntl
import heapq
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain, groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple, cast

import apsw

from models.manifest import Manifest
from service.inference.policy import Policy

APPLICATION = 0x55505254  # "UPRT": SQLite's header has a field that says whose file it is
SCHEMA_VERSION = 1
STATE = ("cart_position", "cart_velocity", "pole_angle", "pole_angular_velocity")
ACTIONS = ("left", "right")
COLUMNS = (
    "time",
    "request_id",
    "seq",
    "row",
    *STATE,
    *(f"q_{action}" for action in ACTIONS),
    "action",
    "out_of_range",
)
SCHEMA = f"""
CREATE TABLE policies (
    id INTEGER PRIMARY KEY,
    digest TEXT NOT NULL,   -- of the bundle that answered
    model TEXT NOT NULL,    -- its name
    backend TEXT NOT NULL,  -- what ran it
    UNIQUE (digest, backend)
);
CREATE TABLE decisions (
    id INTEGER PRIMARY KEY,    -- in the order of the answers
    time REAL NOT NULL,        -- when the answer was handed to the server, seconds since 1970
    request_id TEXT NOT NULL,  -- X-Request-ID
    seq INTEGER,               -- as the caller sent it
    row INTEGER NOT NULL,      -- place of the state in its request, from 0
    -- The numbers as they were asked and answered. No type: in a REAL column SQLite makes 0.0 of -0.0.
    {", ".join(f"{name} NOT NULL" for name in STATE)},
    {", ".join(f"q_{action} NOT NULL" for action in ACTIONS)},
    action INTEGER NOT NULL,     -- 0 left, 1 right
    out_of_range TEXT,           -- names with a comma between them; NULL where there is none
    policy INTEGER NOT NULL REFERENCES policies
);
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {SCHEMA_VERSION};
"""
# Rows are inserted by as few statements as possible: with each the GIL is let go, and comes back when the event loop pleases.
AT_ONCE = (128, 16, 1)


def _insert_of(rows: int) -> str:
    """Return the statement that inserts so many rows, all of the policy that is its first parameter."""
    places = [
        f"(?1, {', '.join(f'?{2 + row * len(COLUMNS) + column}' for column in range(len(COLUMNS)))})"
        for row in range(rows)
    ]
    return f"INSERT INTO decisions (policy, {', '.join(COLUMNS)}) VALUES {', '.join(places)}"  # noqa: S608 - our own names


INSERT = [(rows, _insert_of(rows)) for rows in AT_ONCE]
SELECT = f"""
SELECT decisions.id, {", ".join(COLUMNS)}, digest, backend FROM decisions JOIN policies ON policies.id = policy
WHERE decisions.id > ? ORDER BY decisions.id LIMIT ?
"""  # noqa: S608 - our own names
PROCESSES = 256  # that can write one record at the same time
BUSY_MILLISECONDS = 5_000  # that a writer waits for another program's lock
ROTATION_PAUSE = 10.0  # seconds until a rotation is tried again that a reader prevented
BLOCK = 10_000  # rows that are read at a time, so that no reader holds an old state of the file for long
STAMP = "%Y%m%dT%H%M%S.%fZ"


class RecordError(Exception):
    """Raised when a file is no record, or cannot be read or written."""


# A decision as it is written: the values of `COLUMNS`.
Values = tuple[float | int | str | None, ...]


class Row(NamedTuple):
    """One recorded decision."""

    time: float  # seconds since 1970
    request_id: str
    seq: int | None
    row: int  # place of the state in its request
    state: tuple[float, ...]
    q_values: tuple[float, ...]
    action: int
    out_of_range: str | None  # names with a comma between them; none where there is none
    digest: str
    backend: str


@dataclass(frozen=True)
class Limits:
    """When a file is set aside for a new one, and how many of those are kept."""

    size: int  # bytes
    age: float  # seconds since the file's first decision
    keep: int


class Writer:
    """The file of a record that this process writes."""

    def __init__(self, path: Path, limits: Limits) -> None:
        """Continue the record at `path`, or begin it. Raises `RecordError`."""
        self._limits = limits
        self._lock, self._path = _claim(path)
        self._file: _File | None = None
        try:
            self._file = _File(self._path)
        except BaseException:
            os.close(self._lock)
            raise

    def write(self, decisions: Sequence[tuple[Policy, Sequence[Values]]], now: float) -> None:
        """Write decisions, some of each policy, all or none, at the time `now`.

        Raises `RecordError`; the next call begins with the files as they then are.
        """
        try:
            self._right_file(now).insert(decisions)
        except (apsw.Error, OSError) as error:
            self._close_file()
            raise RecordError(f"{self._path}: cannot be written ({error})") from error

    def close(self) -> None:
        """Leave the file to others, as one file without a journal beside it."""
        self._close_file()
        os.close(self._lock)

    def _right_file(self, now: float) -> "_File":
        """Return the file to write to: a new one where the old one is full, or is not in its place any more."""
        if self._file is not None and not self._file.in_place():
            self._close_file()
        if (
            self._file is not None
            and self._file.due(self._limits, now)
            and self._file.set_aside(now)
        ):
            self._close_file()
            self._forget()
        if self._file is None:
            self._file = _File(self._path)
        return self._file

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _forget(self) -> None:
        rotated = [file for file, of, stamp in _family(self._path) if of == self._path and stamp]
        for file in rotated[: max(0, len(rotated) - self._limits.keep)]:
            file.unlink()


class _File:
    """One file of a record, open for writing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._connection = apsw.Connection(str(path))
        except apsw.Error as error:
            raise RecordError(f"{path}: cannot be opened ({error})") from error
        try:
            self._prepare()
            found = path.stat()
        except (apsw.Error, OSError) as error:
            self._connection.close()
            raise RecordError(f"{path}: cannot be written ({error})") from error
        except RecordError:
            self._connection.close()
            raise
        self._identity = found.st_dev, found.st_ino
        self._not_before = 0.0  # when a rotation may be tried

    def _prepare(self) -> None:
        self._connection.set_busy_timeout(BUSY_MILLISECONDS)
        empty = not self._connection.execute("SELECT count(*) FROM sqlite_schema").get
        if not empty:
            _check(self._connection, self._path)
        # With NORMAL a dying machine may take the last commits with it, a dying process nothing; a commit waits for no disk.
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = NORMAL")
        if empty:
            self._connection.execute(f"BEGIN IMMEDIATE; {SCHEMA} COMMIT")
        self._began = self._first_time()

    def _first_time(self) -> float | None:
        first: float | None = self._connection.execute(
            "SELECT time FROM decisions ORDER BY id LIMIT 1"
        ).get
        return first

    def in_place(self) -> bool:
        """Return whether the file still has its name: what is written to one that was moved or removed, nobody finds."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return False
        self._size = found.st_size
        return (found.st_dev, found.st_ino) == self._identity

    def due(self, limits: Limits, now: float) -> bool:
        """Return whether it is time for a new file."""
        if self._began is None or now < self._not_before:
            return False
        return self._size >= limits.size or now - self._began >= limits.age

    def set_aside(self, now: float) -> bool:
        """Give the file its sortable name; False where a reader that has it open prevents that for now."""
        connection = self._connection
        # The journal is part of the file until it is written back, and that needs the file for itself.
        connection.set_busy_timeout(0)
        try:
            mode = connection.execute("PRAGMA journal_mode = DELETE").get
        except apsw.Error:
            mode = "wal"
        finally:
            connection.set_busy_timeout(BUSY_MILLISECONDS)
        if mode != "delete":
            self._not_before = now + ROTATION_PAUSE
            return False
        moment = datetime.fromtimestamp(self._began or 0.0, UTC)
        while (
            aside := self._path.with_name(
                f"{self._path.stem}.{moment.strftime(STAMP)}{self._path.suffix}"
            )
        ).exists():
            moment += timedelta(microseconds=1)
        self._path.rename(aside)
        return True

    def insert(self, decisions: Sequence[tuple[Policy, Sequence[Values]]]) -> None:
        """Write decisions, some of each policy, all or none."""
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            for policy, rows in decisions:
                number, done = self._number(policy), 0
                for at_once, statement in INSERT:
                    while len(rows) - done >= at_once:
                        connection.execute(
                            statement, [number, *chain.from_iterable(rows[done : done + at_once])]
                        )
                        done += at_once
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        if self._began is None:
            self._began = self._first_time()

    def _number(self, policy: Policy) -> int:
        """Return by which number a policy is known in this file."""
        manifest, digest, backend = (
            policy.bundle.manifest,
            policy.bundle.digest,
            policy.backend_name,
        )
        check_columns(manifest)
        new = (digest, manifest.name, backend)
        self._connection.execute(
            "INSERT OR IGNORE INTO policies (digest, model, backend) VALUES (?, ?, ?)", new
        )
        number: int = self._connection.execute(
            "SELECT id FROM policies WHERE digest = ? AND backend = ?", (digest, backend)
        ).get
        return number

    def close(self) -> None:
        """Write the journal back, if nobody else has the file open, and close it."""
        self._connection.close()


def check_columns(manifest: Manifest) -> None:
    """Check that a policy's decisions fit the record's columns. Raises `RecordError`."""
    names = tuple(value.name for value in manifest.state)
    if names != STATE or tuple(manifest.actions) != ACTIONS:
        raise RecordError(
            f"a record has columns for {', '.join(STATE)} and the actions {', '.join(ACTIONS)};"
            f" {manifest.name} has {', '.join(names)} and {', '.join(manifest.actions)}"
        )


def check(path: Path, manifest: Manifest) -> None:
    """Check that decisions can be recorded at `path`, which is begun where it is not there. Raises `RecordError`."""
    check_columns(manifest)
    lock, own = _claim(path)
    try:
        _File(own).close()
    finally:
        os.close(lock)


def read(path: Path) -> Iterator[Row]:
    """Return the whole record at `path`, in the order of time; of an older file's name, that file alone. Raises `RecordError`."""
    try:
        found = _family(path)
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror})") from error
    if not found:
        raise RecordError(f"{path}: there is no such record")
    files = {
        of: [file for file, _, _ in members]
        for of, members in groupby(found, lambda member: member[1])
    }
    return heapq.merge(*(_rows_of(some) for some in files.values()), key=attrgetter("time"))


def _rows_of(files: Iterable[Path]) -> Iterator[Row]:
    for file in files:
        try:
            with closing(apsw.Connection(str(file), apsw.SQLITE_OPEN_READONLY)) as connection:
                _check(connection, file)
                last = 0
                while rows := cast(list[Any], connection.execute(SELECT, (last, BLOCK)).fetchall()):
                    last = rows[-1][0]
                    for _, moment, request_id, seq, row, x, v, θ, ω, left, right, *rest in rows:
                        yield Row(moment, request_id, seq, row, (x, v, θ, ω), (left, right), *rest)
        except apsw.Error as error:
            raise RecordError(f"{file}: cannot be read ({error})") from error


def _check(connection: apsw.Connection, path: Path) -> None:
    """Check that an open file is a record of this schema. Raises `RecordError`."""
    try:
        application = connection.execute("PRAGMA application_id").get
        version = connection.execute("PRAGMA user_version").get
    except apsw.Error as error:
        raise RecordError(
            f"{path}: cannot be read as a decision record ({error}); choose another path"
        ) from error
    if application != APPLICATION:
        raise RecordError(f"{path}: is another program's, no decision record; choose another path")
    if version != SCHEMA_VERSION:
        raise RecordError(
            f"{path}: is a decision record of schema {version}, this program knows {SCHEMA_VERSION}; choose another path"
        )


def _claim(path: Path) -> tuple[int, Path]:
    """Return the open lock, and the first file of the record at `path` that no living process writes. Raises `RecordError`."""
    try:
        lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise RecordError(f"{path}: no record can be written here ({error.strerror})") from error
    for process in range(PROCESSES):
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, process)
        except OSError:
            continue
        return lock, path.with_name(f"{path.stem}-{process}{path.suffix}") if process else path
    os.close(lock)
    raise RecordError(f"{path}: {PROCESSES} processes write this record already")


def _family(path: Path) -> list[tuple[Path, Path, str]]:
    """Return the files of the record at `path`: each, the one that it was set aside from (or is), and its stamp, empty if it has none.

    Sorted so that of one process's files the oldest comes first.
    """
    name = re.compile(
        rf"({re.escape(path.stem)}(?:-\d+)?)(\.\d{{8}}T\d{{6}}\.\d{{6}}Z)?{re.escape(path.suffix)}"
    )
    matches = [
        (file, name.fullmatch(file.name))
        for file in (path.parent.iterdir() if path.parent.is_dir() else ())
    ]
    found = [
        (file, path.with_name(match[1] + path.suffix), match[2] or "")
        for file, match in matches
        if match
    ]
    return sorted(found, key=lambda member: (member[1], not member[2], member[2]))
