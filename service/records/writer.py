"""Writing a decision record: the file of this process, and when a new one is begun."""

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import chain
from math import inf
from pathlib import Path
from time import monotonic, sleep, time
from typing import NamedTuple

import apsw

from models.manifest import Manifest
from service.inference.policy import Policy
from service.records.files import claimed_file, remove_oldest, set_aside
from service.records.schema import (
    INSERT_STATEMENTS,
    SCHEMA,
    RecordError,
    Values,
    check_columns,
    check_schema,
)

BUSY_MILLISECONDS = 5_000  # that a writer waits for another program's lock
BUSY_POLL_SECONDS = 0.05
RETRY_SECONDS = 10.0  # until a file that somebody reads is tried to be set aside again
OVERSIZE_FACTOR = 2  # of `Limits.size`, from which on no reader is waited for
JOURNAL_SHARE = (
    4  # a journal gets this part of `Limits.size`, if nobody keeps it from being emptied
)
JOURNAL_PAGES = 1_000  # and no more than SQLite's own default
PAGE_BYTES = 4_096

log = logging.getLogger("uvicorn.error")  # the log of the server


@dataclass(frozen=True)
class Limits:
    """When a file is set aside for a new one, and how many of those are kept."""

    size: int  # bytes of the file and its journal
    age: float  # seconds since the file's first decision
    keep: int


class Clocks(NamedTuple):
    """What the time is asked of."""

    elapsed: Callable[[], float] = monotonic  # never set, so that it measures what has passed
    date: Callable[[], float] = time  # seconds since 1970, for what an earlier process wrote


CLOCKS = Clocks()


class Writer:
    """Writes the decisions of this process."""

    def __init__(self, record: Path, limits: Limits, clocks: Clocks = CLOCKS) -> None:
        """Continue a record, or begin it. Raises `RecordError`."""
        self._record = record
        self._limits = limits
        self._clocks = clocks
        self._claim = ExitStack()
        self._path = self._claim.enter_context(claimed_file(record))
        self._file: _OpenFile | None = None
        try:
            self._file = _OpenFile(self._path, limits.size, clocks)
        except BaseException:
            self._claim.close()
            raise

    def write(self, decisions: Sequence[tuple[Policy, Sequence[Values]]]) -> None:
        """Write decisions, some of each policy, all or none.

        Raises `RecordError`; the next call begins with the files as they then are.
        """
        try:
            self._current_file().insert(decisions)
        except (apsw.Error, OSError) as error:
            self._close_file()
            raise RecordError(f"{self._path}: cannot be written ({error})") from error

    def close(self) -> None:
        """Leave the file to others, as one file without a journal beside it."""
        if self._file is not None:
            self._file.close(is_last=True)
            self._file = None
        self._claim.close()

    def _current_file(self) -> "_OpenFile":
        """Return the file to write to: a new one where the old one is full, or has gone."""
        file = self._file
        if file is not None and not file.is_in_place():
            self._close_file()
        elif file is not None and file.is_due(self._limits):
            if file.set_aside():
                self._close_file()
                remove_oldest(self._path, self._limits.keep)
            elif file.size >= OVERSIZE_FACTOR * self._limits.size:
                self._leave_to_its_reader()

        if self._file is None:
            self._file = _OpenFile(self._path, self._limits.size, self._clocks)
        return self._file

    def _leave_to_its_reader(self) -> None:
        """Go on in another file: this one cannot be set aside, and its journal only grows."""
        next_claim = ExitStack()
        next_path = next_claim.enter_context(claimed_file(self._record))
        log.warning(
            "%s: is over --record-size, and a program that reads it keeps it from being set aside;"
            " decisions are recorded in %s",
            self._path,
            next_path,
        )

        self._close_file()
        self._claim.close()
        self._claim, self._path = next_claim, next_path

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class _OpenFile:
    """One file of a record, open for writing."""

    def __init__(self, path: Path, size_limit: int, clocks: Clocks = CLOCKS) -> None:
        self._path = path
        self._clocks = clocks
        self._journal = path.with_name(f"{path.name}-wal")
        try:
            self._connection = apsw.Connection(str(path))
        except apsw.Error as error:
            raise RecordError(f"{path}: cannot be opened ({error})") from error

        try:
            self._prepare(size_limit)
            status = path.stat()
        except (apsw.Error, OSError) as error:
            self._connection.close()
            raise RecordError(f"{path}: cannot be written ({error})") from error
        except RecordError:
            self._connection.close()
            raise
        self._identity = status.st_dev, status.st_ino
        self.size = status.st_size  # bytes, with the journal, when it was last looked at
        self._retry_at = -inf  # when it may be tried again to set the file aside

    def _prepare(self, size_limit: int) -> None:
        connection = self._connection
        connection.set_busy_timeout(BUSY_MILLISECONDS)
        is_empty = not connection.execute("SELECT count(*) FROM sqlite_schema").get
        if not is_empty:
            check_schema(connection)

        # With NORMAL a commit waits for no disk. A dying process loses nothing by it, a dying
        # machine may lose the last commits.
        self._begin_journal()
        connection.execute("PRAGMA synchronous = NORMAL")

        journal_bytes = size_limit // JOURNAL_SHARE
        pages = max(1, min(JOURNAL_PAGES, journal_bytes // PAGE_BYTES))
        connection.execute(f"PRAGMA wal_autocheckpoint = {pages}")
        connection.execute(f"PRAGMA journal_size_limit = {journal_bytes}")

        if is_empty:
            connection.execute(f"BEGIN IMMEDIATE; {SCHEMA} COMMIT")
        self._look_for_first_row()

    def _begin_journal(self) -> None:
        """Write to a journal from now on. SQLite itself does not wait for a lock here."""
        deadline = monotonic() + BUSY_MILLISECONDS / 1e3
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
                return
            except apsw.BusyError:
                if monotonic() > deadline:
                    raise
            sleep(BUSY_POLL_SECONDS)

    def _look_for_first_row(self) -> None:
        """Find out when the file was begun: by its rows, whose dates a clock may have got wrong."""
        query = "SELECT time FROM decisions ORDER BY id LIMIT 1"
        self._first_time: float | None = self._connection.execute(query).get
        if self._first_time is not None:
            age = max(0.0, self._clocks.date() - self._first_time)
            self._begun = self._clocks.elapsed() - age

    def is_in_place(self) -> bool:
        """Return whether the file still has its name: what else is written, nobody would find."""
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return False
        self.size = status.st_size
        with suppress(FileNotFoundError):  # where another program has emptied it
            self.size += self._journal.stat().st_size
        return (status.st_dev, status.st_ino) == self._identity

    def is_due(self, limits: Limits) -> bool:
        """Return whether it is time for a new file."""
        if self._first_time is None:
            return False
        return self.size >= limits.size or self._clocks.elapsed() - self._begun >= limits.age

    def set_aside(self) -> bool:
        """Give the file its sortable name; return False where a reader prevents that for now."""
        now = self._clocks.elapsed()
        if now < self._retry_at:
            return False
        if not self._merge_journal():
            self._retry_at = now + RETRY_SECONDS
            return False
        set_aside(self._path, self._first_time or 0.0)
        return True

    def _merge_journal(self) -> bool:
        """Make one plain file of file and journal; return False where a reader prevents that."""
        connection = self._connection
        connection.set_busy_timeout(0)
        try:
            mode = connection.execute("PRAGMA journal_mode = DELETE").get
        except apsw.Error:
            return False
        finally:
            connection.set_busy_timeout(BUSY_MILLISECONDS)
        return bool(mode == "delete")

    def insert(self, decisions: Sequence[tuple[Policy, Sequence[Values]]]) -> None:
        """Write decisions, some of each policy, all or none."""
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            for policy, rows in decisions:
                self._insert_rows(self._policy_id(policy), rows)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        if self._first_time is None:
            self._look_for_first_row()

    def _insert_rows(self, policy_id: int, rows: Sequence[Values]) -> None:
        done = 0
        for count, statement in INSERT_STATEMENTS:
            while len(rows) - done >= count:
                values = chain.from_iterable(rows[done : done + count])
                self._connection.execute(statement, [policy_id, *values])
                done += count

    def _policy_id(self, policy: Policy) -> int:
        """Return the id of a policy in this file."""
        bundle, backend = policy.bundle, policy.backend_name
        check_columns(bundle.manifest)
        self._connection.execute(
            "INSERT OR IGNORE INTO policies (digest, model, backend) VALUES (?, ?, ?)",
            (bundle.digest, bundle.manifest.name, backend),
        )
        policy_id: int = self._connection.execute(
            "SELECT id FROM policies WHERE digest = ? AND backend = ?", (bundle.digest, backend)
        ).get
        return policy_id

    def close(self, *, is_last: bool = False) -> None:
        """Close the file.

        With `is_last` it is left as one file that can be read where nothing can be written, if no
        reader has it open.
        """
        try:
            if is_last:
                self._merge_journal()
        finally:
            self._connection.close()


def check(record: Path, manifest: Manifest) -> None:
    """Check that decisions can be recorded, and begin the record where it is not there.

    Raises `RecordError`; then of a new record nothing is left but the file of its lock.
    """
    check_columns(manifest)
    with claimed_file(record) as path:
        is_new = not path.exists()
        try:
            _OpenFile(path, JOURNAL_SHARE * JOURNAL_PAGES * PAGE_BYTES).close(is_last=True)
        except (RecordError, apsw.Error) as error:
            if is_new:
                for suffix in ("", "-wal", "-shm", "-journal"):
                    path.with_name(f"{path.name}{suffix}").unlink(missing_ok=True)
            raise RecordError(str(error)) from error
