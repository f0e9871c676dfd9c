"""What can be done with a decision record: replay it, and hand it to others."""

import csv
import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from pyarrow import parquet

from models.bundle import Bundle
from service.inference.backends import BackendName
from service.records.reader import read
from service.records.schema import STATE
from tests.support.project import ROOT
from tests.support.records import ask
from tests.support.service import Start, clean_environment, run_program, wait_for

WITHOUT_PYARROW = """
import runpy, sys
sys.modules["pyarrow"] = None  # importing it now raises ImportError
runpy.run_module("service", run_name="__main__", alter_sys=True)
"""


def run(
    *arguments: str | Path, program: tuple[str, ...] = ("-m", "service")
) -> tuple[int, str, str]:
    result = run_program(*arguments, program=program)
    return result.returncode, result.stdout, result.stderr


@pytest.fixture
def record(start: Start, tmp_path: Path) -> Path:
    """A record of 40 decisions, the first half of them in an older file."""
    file = tmp_path / "decisions.sqlite"
    with start("--record", str(file)) as address:
        ask(address, range(20))
    file.rename(tmp_path / "decisions.20261123T120000.000000Z.sqlite")
    with start("--record", str(file)) as address:
        ask(address, range(20, 40))
    return file


def test_a_record_is_replayed_to_the_bit_by_each_backend(
    start: Start, tmp_path: Path, backend: BackendName
) -> None:
    file = tmp_path / "decisions.sqlite"
    with start("--record", str(file), "--backend", backend) as address:
        ask(address, range(30))
    assert {row.backend for row in read(file)} == {backend}
    assert run("replay", file) == (0, "30 rows are identical, 0 differ, 0 were left out\n", "")


def test_a_record_is_replayed_with_its_older_files_while_the_service_writes_it(
    start: Start, record: Path
) -> None:
    with start("--record", str(record)) as address:
        ask(address, range(40, 45))
        wait_for(lambda: record.exists() and run("replay", record)[0] == 0)
        code, shown, _ = run("replay", record)
    assert code == 0
    assert int(shown.split()[0]) >= 40
    assert run("replay", record)[1].startswith("45 rows are identical")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("q_left = q_left + 0.5", "0.5"),
        ("action = 1 - action", "1 have another action"),
        ("out_of_range = 'pole_angle'", "pole_angle"),
    ],
)
def test_a_difference_is_shown_and_told_by_the_exit_code(
    record: Path, change: str, named: str
) -> None:
    with closing(sqlite3.connect(record)) as connection, connection:
        connection.execute(f"UPDATE decisions SET {change} WHERE seq = 25")  # noqa: S608 - our own words
        (request_id,) = connection.execute(
            "SELECT request_id FROM decisions WHERE seq = 25"
        ).fetchone()
    code, shown, _ = run("replay", record)
    assert code == 1
    assert f"request {request_id}" in shown
    assert "39 rows are identical, 1 differ, 0 were left out" in shown
    assert named in shown


def test_rows_of_a_bundle_that_is_not_given_are_named_counted_and_told_by_the_exit_code(
    start: Start, record: Path, committed: Bundle, exported: Bundle
) -> None:
    with start("--record", str(record), "--bundle", str(exported.folder)) as address:
        ask(address, range(7))
    code, shown, _ = run("replay", record)
    assert code == 3
    assert f"7 rows were left out: no bundle given is {exported.digest}" in shown
    assert "40 rows are identical, 0 differ, 7 were left out" in shown
    code, shown, _ = run(
        "replay", record, "--bundle", exported.folder, "--bundle", committed.folder
    )
    assert (code, shown) == (0, "47 rows are identical, 0 differ, 0 were left out\n")


@pytest.mark.parametrize("command", [("replay",), ("export", "--to", "decisions.csv")])
def test_what_is_no_record_is_refused_in_one_line(tmp_path: Path, command: tuple[str, ...]) -> None:
    name, *options = command
    options = [str(tmp_path / option) if option.endswith(".csv") else option for option in options]
    nothing, other = tmp_path / "nothing.sqlite", tmp_path / "other.sqlite"
    other.write_bytes(b"no database" * 500)
    for file, named in ((nothing, "no such record"), (other, "not a database")):
        code, shown, error_text = run(name, file, *options)
        assert code in (1, 2)
        assert shown == ""
        assert error_text.count("\n") == 1
        assert str(file) in error_text
        assert named in error_text
    assert {path.name for path in tmp_path.iterdir()} == {"other.sqlite"}


def test_an_export_holds_every_decision_as_it_is_in_the_record(
    record: Path, tmp_path: Path
) -> None:
    with closing(sqlite3.connect(record)) as connection, connection:
        connection.execute(
            "UPDATE decisions SET cart_velocity = -0.0, out_of_range = 'pole_angle', seq = NULL"
            " WHERE seq = 25"
        )
    rows = list(read(record))
    for suffix in ("csv", "jsonl", "parquet"):
        file = tmp_path / f"out.{suffix}"
        assert run("export", record, "--to", file) == (0, f"{file}: 40 rows\n", "")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    with (tmp_path / "out.csv").open(newline="") as lines_of_csv:
        table = list(csv.DictReader(lines_of_csv))
    columns = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    for row, line, cells, column in zip(rows, lines, table, columns, strict=True):
        assert list(line.values()) == [*row[:4], *row.state, *row.q_values, *row[6:]]
        assert list(cells.values()) == [
            "" if value is None else str(value) for value in line.values()
        ]
        assert round(column.pop("time").timestamp() * 1e6) == round(row.time * 1e6)
        assert column == {name: value for name, value in line.items() if name != "time"}
        assert [str(column[name]) for name in STATE] == [
            str(value) for value in row.state
        ]  # 0.0 is not -0.0
    assert [line["seq"] for line in lines] == [*range(25), None, *range(26, 40)]


def test_an_unknown_suffix_or_a_missing_library_is_said_in_one_line(
    record: Path, tmp_path: Path
) -> None:
    code, _, error_text = run("export", record, "--to", tmp_path / "decisions.xlsx")
    assert (code, error_text.count("\n")) == (1, 1)
    assert ".parquet, .csv, .jsonl" in error_text
    code, _, error_text = run(
        "export", record, "--to", tmp_path / "decisions.parquet", program=("-c", WITHOUT_PYARROW)
    )
    assert (code, error_text.count("\n")) == (1, 1)
    assert "pyarrow, which is not installed" in error_text
    code, _, error_text = run("export", record, "--to", tmp_path / "nowhere" / "decisions.csv")
    assert (code, error_text.count("\n")) == (1, 1)
    assert "nowhere/decisions.csv" in error_text
    assert not [
        path
        for path in tmp_path.iterdir()
        if "csv" in path.name or "parquet" in path.name or "xlsx" in path.name
    ]


@pytest.mark.parametrize(
    "change",
    [
        "pole_angle = 'many'",
        "q_left = x'00'",
        "cart_velocity = 1e300",
        "request_id = CAST(x'ff' AS TEXT)",
        "action = 7",
    ],
)
def test_a_value_that_no_decision_has_is_told_by_its_row(
    record: Path, tmp_path: Path, change: str
) -> None:
    with closing(sqlite3.connect(record)) as connection, connection:
        connection.execute(f"UPDATE decisions SET {change} WHERE seq = 25")  # noqa: S608 - our own words
    target = tmp_path / "out.csv"
    for expected, command in ((2, ("replay", record)), (1, ("export", record, "--to", target))):
        code, _, error_text = run(*command)
        assert (code, error_text.count("\n")) == (expected, 1)
        assert f"{record}: cannot be read" in error_text
    assert not target.exists()


def test_a_text_that_looks_like_a_formula_is_text_in_the_table(
    start: Start, tmp_path: Path
) -> None:
    file, ids = tmp_path / "decisions.sqlite", ["=1+1", "+1", "-1", "@SUM(A1)", "a=b"]
    with start("--record", str(file)) as address:
        for request_id in ids:
            ask(address, range(1), {"X-Request-ID": request_id})
    for suffix in ("csv", "jsonl"):
        assert run("export", file, "--to", tmp_path / f"out.{suffix}")[0] == 0
    with (tmp_path / "out.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    assert [row["request_id"] for row in rows] == ["'=1+1", "'+1", "'-1", "'@SUM(A1)", "a=b"]
    assert rows[0]["cart_velocity"] == "0.0"
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["request_id"] for line in lines] == ids


def test_an_export_follows_no_link_that_somebody_laid(record: Path, tmp_path: Path) -> None:
    victim, target = tmp_path / "victim", tmp_path / "out.csv"
    victim.write_text("mine")
    target.symlink_to(victim)
    with subprocess.Popen(
        [sys.executable, "-m", "service", "export", str(record), "--to", str(target)],
        cwd=ROOT,
        env=clean_environment(),
    ) as process:
        (tmp_path / f".out.csv.{process.pid}").symlink_to(victim)
    assert process.returncode == 0
    assert victim.read_text() == "mine"
    assert not target.is_symlink()


def test_a_texts_line_ends_reach_no_terminal(record: Path) -> None:
    with closing(sqlite3.connect(record)) as connection, connection:
        connection.execute(
            "UPDATE decisions SET request_id = 'a' || char(10, 27) || '[31m', action = 0"
            " WHERE seq = 25"
        )
    code, shown, _ = run("replay", record)
    assert code == 1
    assert "request a\\n\\x1b[31m, state 0" in shown
