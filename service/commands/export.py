"""Exporting a decision record: one file for other programs, by its suffix."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

from models.files import atomic_replacement
from service.commands.command_line import ExportOptions
from service.commands.output import OutputError, print_result
from service.observability.logging import print_error
from service.records.reader import read
from service.records.schema import COLUMNS as RECORDED_COLUMNS
from service.records.schema import Q_VALUES, STATE, RecordError, Row

COLUMNS = (*RECORDED_COLUMNS, "digest", "backend")
PARQUET_GROUP_ROWS = 65_536  # that Parquet holds together
# A spreadsheet takes a cell that begins with one of these for a formula, and runs it.
FORMULA_BEGINNINGS = ("=", "+", "-", "@", "\t", "\r", "\n")

Cells = tuple[float | int | str | None, ...]  # the values of `COLUMNS`


class ExportError(Exception):
    """Raised when a record cannot be exported as asked."""


def run(options: ExportOptions) -> int:
    """Export a record. Returns 1 when that cannot be done."""
    try:
        rows = export(options.file, options.to)
        print_result(f"{options.to}: {rows} rows")
    except (RecordError, ExportError) as error:
        print_error(str(error))
        return 1
    except OutputError as error:
        print_error(f"{options.to}: {rows} rows are written, but {error}")
        return 1
    return 0


def export(record: Path, target: Path) -> int:
    """Write a record to a file, which is there whole or not at all; return the number of rows.

    Raises `RecordError` and `ExportError`.
    """
    write = FORMATS.get(target.suffix)
    if write is None:
        raise ExportError(f"{target}: its suffix must be one of {', '.join(FORMATS)}")
    rows = map(_cells, read(record))
    try:
        with atomic_replacement(target) as temp_path:
            return write(rows, temp_path)
    except OSError as error:
        raise ExportError(f"{target}: cannot be written ({error.strerror})") from error


def _cells(row: Row) -> Cells:
    return (*row[:4], *row.state, *row.q_values, *row[6:])


def _write_csv(rows: Iterable[Cells], path: Path) -> int:
    count = 0
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for count, row in enumerate(rows, 1):  # noqa: B007 - the last one is how many there were
            writer.writerow(map(_csv_cell, row))
    return count


def _csv_cell(value: float | int | str | None) -> float | int | str | None:
    """Return a cell that a spreadsheet shows as it is: a text is no formula."""
    if isinstance(value, str) and value.startswith(FORMULA_BEGINNINGS):
        return f"'{value}"
    return value


def _write_jsonl(rows: Iterable[Cells], path: Path) -> int:
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for count, row in enumerate(rows, 1):  # noqa: B007 - the last one is how many there were
            file.write(json.dumps(dict(zip(COLUMNS, row, strict=True))) + "\n")
    return count


def _write_parquet(rows: Iterator[Cells], path: Path) -> int:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise ExportError(
            ".parquet needs pyarrow, which is not installed:"
            " in a checkout, .venv/bin/pip install '.[export]'"
        ) from error

    types = {
        "time": pa.timestamp("us", "UTC"),
        "seq": pa.int64(),
        "row": pa.int32(),
        "action": pa.int8(),
        **dict.fromkeys((*STATE, *Q_VALUES), pa.float64()),
        **dict.fromkeys(("request_id", "out_of_range", "digest", "backend"), pa.string()),
    }
    schema = pa.schema([(name, types[name]) for name in COLUMNS])

    count = 0
    with parquet.ParquetWriter(path, schema) as writer:
        while group := list(islice(rows, PARQUET_GROUP_ROWS)):
            columns = dict(zip(COLUMNS, zip(*group, strict=True), strict=True))
            columns["time"] = tuple(round(moment * 1e6) for moment in columns["time"])
            arrays = {name: pa.array(values, types[name]) for name, values in columns.items()}
            writer.write_table(pa.table(arrays, schema))
            count += len(group)
    return count


FORMATS: dict[str, Callable[[Iterator[Cells], Path], int]] = {
    ".parquet": _write_parquet,
    ".csv": _write_csv,
    ".jsonl": _write_jsonl,
}
