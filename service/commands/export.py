"""Export: a decision record in, one file for other programs out. `python -m service export FILE --to decisions.parquet`."""

import argparse
import csv
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

from service.records.store import ACTIONS, STATE, RecordError, Row, read

COLUMNS = (
    "time",
    "request_id",
    "seq",
    "row",
    *STATE,
    *(f"q_{action}" for action in ACTIONS),
    "action",
    "out_of_range",
    "digest",
    "backend",
)
GROUP = 65_536  # rows that Parquet holds together

Flat = tuple[float | int | str | None, ...]  # the values of `COLUMNS`


class ExportError(Exception):
    """Raised when a record cannot be exported as asked."""


def main(arguments: list[str]) -> int:
    """Export a record. Returns 1 when that cannot be done."""
    parser = argparse.ArgumentParser(
        prog="python -m service export",
        description="Write a decision record as one file for other programs.",
    )
    parser.add_argument(
        "file", type=Path, help="the record as --record names it, or one of its older files"
    )
    parser.add_argument(
        "--to",
        type=Path,
        required=True,
        metavar="FILE",
        help=f"what to write, by its suffix: {', '.join(FORMATS)}",
    )
    options = parser.parse_args(arguments)
    try:
        rows = export(options.file, options.to)
    except (RecordError, ExportError) as error:
        sys.stderr.write(f"upright: {error}\n")
        return 1
    sys.stdout.write(f"{options.to}: {rows} rows\n")
    return 0


def export(record: Path, to: Path) -> int:
    """Write the record to a file, which is there whole or not at all; returns its rows. Raises `RecordError` and `ExportError`."""
    write = FORMATS.get(to.suffix)
    if write is None:
        raise ExportError(f"{to}: its suffix must be one of {', '.join(FORMATS)}")
    beside = to.with_name(f".{to.name}.{os.getpid()}")
    try:
        rows = write(map(_flat, read(record)), beside)
        beside.replace(to)
    except OSError as error:
        raise ExportError(f"{to}: cannot be written ({error.strerror})") from error
    finally:
        beside.unlink(missing_ok=True)
    return rows


def _flat(row: Row) -> Flat:
    return (*row[:4], *row.state, *row.q_values, *row[6:])


def _csv(rows: Iterable[Flat], file: Path) -> int:
    count = 0
    with file.open("w", newline="", encoding="utf-8") as output:
        writer = csv.writer(output)
        writer.writerow(COLUMNS)
        for count, row in enumerate(rows, 1):  # noqa: B007 - the last one is how many there were
            writer.writerow(row)
    return count


def _jsonl(rows: Iterable[Flat], file: Path) -> int:
    count = 0
    with file.open("w", encoding="utf-8") as output:
        for count, row in enumerate(rows, 1):  # noqa: B007 - the last one is how many there were
            output.write(json.dumps(dict(zip(COLUMNS, row, strict=True))) + "\n")
    return count


def _parquet(rows: Iterator[Flat], file: Path) -> int:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise ExportError(
            ".parquet needs pyarrow, which is not installed: in a checkout, .venv/bin/pip install '.[export]'"
        ) from error
    kinds = {
        "time": pa.timestamp("us", "UTC"),
        "seq": pa.int64(),
        "row": pa.int32(),
        "action": pa.int8(),
        **dict.fromkeys((*STATE, *(f"q_{action}" for action in ACTIONS)), pa.float64()),
        **dict.fromkeys(("request_id", "out_of_range", "digest", "backend"), pa.string()),
    }
    schema = pa.schema([(name, kinds[name]) for name in COLUMNS])
    count = 0
    with parquet.ParquetWriter(file, schema) as writer:
        while some := list(islice(rows, GROUP)):
            columns = dict(zip(COLUMNS, zip(*some, strict=True), strict=True))
            columns["time"] = tuple(round(moment * 1e6) for moment in columns["time"])
            writer.write_table(
                pa.table(
                    {name: pa.array(values, kinds[name]) for name, values in columns.items()},
                    schema,
                )
            )
            count += len(some)
    return count


FORMATS: dict[str, Callable[[Iterator[Flat], Path], int]] = {
    ".parquet": _parquet,
    ".csv": _csv,
    ".jsonl": _jsonl,
}
