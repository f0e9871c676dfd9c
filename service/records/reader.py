"""Reading a decision record, also while a service writes it."""

import heapq
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import apsw

from service.records.files import family
from service.records.schema import SELECT_STATEMENT, RecordError, Row, check_schema, row_from

# Rows read in one transaction: while it lasts, a writer's journal cannot be emptied.
BLOCK_ROWS = 10_000


def read(record: Path) -> Iterator[Row]:
    """Return every row of a record in the order of time; of an older file, its rows alone.

    Raises `RecordError`.
    """
    try:
        files = family(record)
    except OSError as error:
        raise RecordError(f"{record}: cannot be read ({error.strerror})") from error
    if not files:
        raise RecordError(f"{record}: there is no such record")

    by_writer = groupby(files, lambda file: file.written_as)
    paths_by_writer = [[file.path for file in members] for _, members in by_writer]
    return heapq.merge(*map(_rows_of, paths_by_writer), key=attrgetter("time"))


def _rows_of(paths: Iterable[Path]) -> Iterator[Row]:
    for path in paths:
        try:
            with closing(_open(path)) as connection:
                yield from _rows(connection)
        except (apsw.Error, ValueError) as error:  # ValueError: a value that cannot be
            raise RecordError(f"{path}: cannot be read ({error})") from error


def _rows(connection: apsw.Connection) -> Iterator[Row]:
    check_schema(connection)
    last = 0
    while True:
        cursor = connection.execute(SELECT_STATEMENT, (last, BLOCK_ROWS))
        rows = cast(list[tuple[Any, ...]], cursor.fetchall())
        if not rows:
            return
        last = rows[-1][0]
        yield from map(row_from, rows)


def _open(path: Path) -> apsw.Connection:
    """Open a file to read it, also where nothing can be written.

    A file that a killed writer left needs a journal's index beside it, and SQLite makes one. Where
    it may not, and there is no journal, the file is whole as it is.
    """
    connection = apsw.Connection(str(path), apsw.SQLITE_OPEN_READONLY)
    try:
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
    except (apsw.CantOpenError, apsw.ReadOnlyError):
        connection.close()
        journal = path.with_name(f"{path.name}-wal")
        if journal.exists() and journal.stat().st_size:
            raise
        uri = f"file:{quote(str(path.absolute()))}?immutable=1"
        return apsw.Connection(uri, apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
    except apsw.Error:  # it is no database, which the check of the schema tells
        pass
    return connection
