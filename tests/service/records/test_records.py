"""What was answered is in the record, whatever happens to the service, the file and the disk."""

import math
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import apsw
import httpx2
import pytest
from starlette.testclient import TestClient
from websockets.sync.client import connect

from models.bundle import Bundle
from service.inference.loading import load
from service.inference.policy import Policy
from service.records.reader import read
from service.records.recorder import QUEUE_LIMIT
from service.records.schema import RecordError, Values
from service.records.writer import Clocks, Limits, Writer
from service.server.application import create_application
from service.state import ServiceState
from tests.support.metrics import samples
from tests.support.project import COMMITTED, ROOT
from tests.support.records import ask
from tests.support.service import (
    Start,
    clean_environment,
    free_port,
    refused,
    service,
    settings,
    wait_for,
)

STATE = [0.01, -0.02, 0.05, 0.3]
NEVER = Limits(size=10**9, age=1e9, keep=10)
NOON = 1_795_435_200.0  # 2026-11-23T12:00:00Z


def rows_of(path: Path, query: str = "SELECT * FROM decisions ORDER BY id") -> list[dict[str, Any]]:
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(query)]


def outcomes(address: str) -> tuple[float, float]:
    values = samples(httpx2.get(f"{address}/metrics").text)
    return values["upright_record_rows_total", ("written",)], values[
        "upright_record_rows_total", ("dropped",)
    ]


def settled(address: str, decisions: int) -> bool:
    return sum(outcomes(address)) == decisions


@pytest.fixture(scope="module")
def policy(committed: Bundle) -> Policy:
    return load(committed, "onnx")


def decision(moment: float, request_id: str = "a") -> Values:
    return (moment, request_id, None, 0, *STATE, 1.5, 2.5, 1, None)


def test_every_endpoint_records_what_it_answered_one_row_a_state(tmp_path: Path) -> None:
    file, port, grpc_port = tmp_path / "decisions.sqlite", free_port(), free_port()
    address = f"http://127.0.0.1:{port}"
    with service(
        port, "--grpc-port", str(grpc_port), "--record", str(file), "--drain", "0"
    ) as process:
        one = httpx2.post(
            f"{address}/act",
            json={"state": STATE, "seq": 2**63 - 1},
            headers={"X-Request-ID": "mine"},
        ).json()
        beyond = httpx2.post(f"{address}/act", json={"state": [9, -0.0, 0, 9]}).json()
        several = httpx2.post(
            f"{address}/act/batch", json={"states": [STATE, [0, 0, -0.05, 0]], "seq": 5}
        ).json()
        given = {"name": "state", "shape": [1, 4], "datatype": "FP32", "data": [0, 0, 0.05, 0]}
        assert (
            httpx2.post(
                f"{address}/v2/models/cartpole-dqn/infer", json={"inputs": [given]}
            ).status_code
            == 200
        )
        with connect(f"ws://127.0.0.1:{port}/act/stream") as stream:
            stream.send('{"state":[0,0,0.05,0],"seq":8}')
            stream.recv()
            stream.send("nonsense")
            stream.recv()
        assert httpx2.post(f"{address}/act", json={"state": [0, 0]}).status_code == 422
        remote = subprocess.run(
            [sys.executable, "-W", "ignore", "examples/triton_grpc.py", f"127.0.0.1:{grpc_port}"],
            cwd=ROOT,
            check=False,
            timeout=60,
        )
        assert remote.returncode == 0
        process.send_signal(signal.SIGTERM)  # at once: what still waits is written before the end
        assert process.wait(30) == 0
    rows = rows_of(file)
    assert [row["seq"] for row in rows] == [2**63 - 1, None, 5, 5, None, 8, None, None]
    assert [row["row"] for row in rows] == [0, 0, 0, 1, 0, 0, 0, 1]
    assert rows[0]["request_id"] == "mine"
    assert [
        rows[0][name]
        for name in ("cart_position", "cart_velocity", "pole_angle", "pole_angular_velocity")
    ] == STATE
    assert [[row["q_left"], row["q_right"]] for row in rows[:4]] == [
        one["q_values"],
        beyond["q_values"],
        *several["q_values"],
    ]
    assert [row["action"] for row in rows[:4]] == [
        one["action"],
        beyond["action"],
        *several["actions"],
    ]
    assert [row["out_of_range"] for row in rows[:3]] == [
        None,
        "cart_position,pole_angular_velocity",
        None,
    ]
    assert math.copysign(1.0, rows[1]["cart_velocity"]) == -1.0
    assert rows[2]["request_id"] == rows[3]["request_id"] != rows[4]["request_id"]
    assert [row["time"] for row in rows] == sorted(row["time"] for row in rows)
    assert rows_of(file, "SELECT digest, model, backend FROM policies") == [
        {"digest": one["digest"], "model": "cartpole-dqn", "backend": "onnx"}
    ]
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        "decisions.sqlite",
        "decisions.sqlite.lock",
    ]


def test_an_existing_record_is_continued_by_another_bundle_too(
    start: Start, tmp_path: Path, exported: Bundle
) -> None:
    file = tmp_path / "decisions.sqlite"
    with start("--record", str(file)) as address:
        ask(address, range(3))
    with start("--record", str(file), "--bundle", str(exported.folder)) as address:
        ask(address, range(3, 5))
    rows = list(read(file))
    assert [row.seq for row in rows] == [0, 1, 2, 3, 4]
    assert [row.digest == exported.digest for row in rows] == [False, False, False, True, True]


def test_each_decision_names_the_bundle_that_made_it_while_bundles_change_places(
    tmp_path: Path, policy: Policy, exported: Bundle
) -> None:
    file, policies, digests = tmp_path / "decisions.sqlite", (policy, load(exported, "onnx")), []
    service_state = ServiceState(policy)
    with TestClient(create_application(settings(record=file), service_state)) as client:
        for number in range(300):
            service_state.replace_policy(policies[number // 3 % 2])
            digests.append(
                client.post("/act", json={"state": STATE, "seq": number}).json()["digest"]
            )
    assert [(row.seq, row.digest) for row in read(file)] == list(enumerate(digests))


@contextmanager
def killed(port: int, *arguments: str) -> Iterator[str]:
    with service(port, *arguments) as process:
        yield f"http://127.0.0.1:{port}"
        process.kill()
        process.wait()


def test_a_killed_service_leaves_a_sound_record_which_the_next_one_continues(
    tmp_path: Path,
) -> None:
    file = tmp_path / "decisions.sqlite"
    with killed(free_port(), "--record", str(file)) as address:
        ask(address, range(200))
        wait_for(lambda: outcomes(address) == (200, 0))
        ask(address, range(200, 400))
    assert rows_of(file, "PRAGMA integrity_check") == [{"integrity_check": "ok"}]
    kept = [row["seq"] for row in rows_of(file)]
    assert len(kept) >= 200
    assert kept == list(range(len(kept)))
    with killed(free_port(), "--record", str(file)) as address:
        ask(address, range(400, 500))
        wait_for(lambda: outcomes(address) == (100, 0))
    assert [row["seq"] for row in rows_of(file)] == [*kept, *range(400, 500)]


def test_each_process_writes_a_file_of_its_own_and_the_record_is_all_of_them(
    start: Start, tmp_path: Path
) -> None:
    file = tmp_path / "decisions.sqlite"
    count = 0
    with start("--workers", "2", "--record", str(file)) as address:
        # Each on a connection of its own; the kernel lets every process take some, sooner or later.
        while count < 60 or not (tmp_path / "decisions-1.sqlite").exists() or not file.exists():
            assert count < 2_000
            answer = httpx2.post(f"{address}/act", json={"state": STATE, "seq": count})
            assert answer.status_code == 200
            count += 1
        wait_for(lambda: outcomes(address) == (count, 0))
    shares = [len(rows_of(tmp_path / name)) for name in ("decisions.sqlite", "decisions-1.sqlite")]
    assert sum(shares) == count
    assert min(shares) > 0
    assert [row.seq for row in read(file)] == list(range(count))


def of_another_program(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE guests (name TEXT)")


def of_another_schema(file: Path) -> None:
    Writer(file, NEVER).close()
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA user_version = 9")


def of_no_database(file: Path) -> None:
    file.write_bytes(b"Dear diary, today the pole fell again. " * 100)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (of_another_program, "another program's"),
        (of_another_schema, "schema 9"),
        (of_no_database, "not a database"),
        (Path.mkdir, "open"),
    ],
)
@pytest.mark.parametrize("workers", ["1", "2"])
def test_what_is_no_record_of_ours_is_refused_in_one_line_and_left_alone(
    tmp_path: Path, make: Any, named: str, workers: str
) -> None:
    file = tmp_path / "decisions.sqlite"
    make(file)
    before = file.read_bytes() if file.is_file() else b""
    code, error_text = refused("--record", str(file), "--workers", workers)
    assert code == 1
    assert error_text.count("\n") == 1
    assert str(file) in error_text
    assert named in error_text
    assert before == (file.read_bytes() if file.is_file() else b"")


def test_a_place_that_cannot_be_written_stops_the_start_with_one_line() -> None:
    code, error_text = refused("--record", "/proc/decisions.sqlite")
    assert code == 1
    assert error_text.count("\n") == 1
    assert "--record /proc/decisions.sqlite" in error_text


def test_a_full_disk_fails_no_request_is_said_once_and_the_record_goes_on_afterwards(
    tmp_path: Path,
) -> None:
    file, log, port = tmp_path / "decisions.sqlite", tmp_path / "service.log", free_port()
    address = f"http://127.0.0.1:{port}"
    command = [
        sys.executable,
        "-m",
        "service",
        "--port",
        str(port),
        "--drain",
        "0",
        "--record",
        str(file),
    ]
    with (
        log.open("wb") as output,
        subprocess.Popen(command, cwd=ROOT, env=clean_environment(), stderr=output) as process,
    ):
        try:
            wait_for(lambda: "startup complete" in log.read_text())
            ask(address, range(10))
            wait_for(lambda: outcomes(address) == (10, 0))
            none, most = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(
                process.pid, resource.RLIMIT_FSIZE, (log.stat().st_size + 4_096, most)
            )  # a file cannot grow beyond it
            for asked in range(1, 4):
                ask(address, range(10 * asked, 10 * asked + 10))
                wait_for(partial(settled, address, 10 + 10 * asked))
            _, dropped = outcomes(address)
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (none, most))
            ask(address, range(40, 50))
            wait_for(lambda: outcomes(address) == (50 - dropped, dropped))
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
    assert dropped > 0
    assert log.read_text().count("decisions are not recorded") == 1
    assert log.read_text().count("decisions are recorded again") == 1
    assert "Traceback" not in log.read_text()
    assert len(rows_of(file)) == 50 - dropped
    assert [row["seq"] for row in rows_of(file)][-10:] == list(range(40, 50))


def test_what_waits_is_bounded_and_the_rest_is_dropped_and_counted(
    start: Start, tmp_path: Path
) -> None:
    file, size, batches = tmp_path / "decisions.sqlite", 10_000, 16
    with start("--record", str(file)) as address:
        with (
            closing(sqlite3.connect(file, isolation_level=None)) as other,
            httpx2.Client(timeout=30) as client,
        ):
            other.execute("BEGIN IMMEDIATE")  # another program keeps the file locked
            for _ in range(batches):
                assert (
                    client.post(f"{address}/act/batch", json={"states": [STATE] * size}).status_code
                    == 200
                )
            other.execute("ROLLBACK")
        wait_for(partial(settled, address, batches * size))
        written, dropped = outcomes(address)
    assert dropped > 0
    assert written >= QUEUE_LIMIT - size
    assert len(rows_of(file)) == written


def test_a_record_for_which_there_is_no_room_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    file = tmp_path / "decisions.sqlite"
    code, error = refused("--record", str(file), file_limit=4_096)
    assert code == 1
    assert error.startswith(f"upright: --record {file}: cannot be written (")
    assert [path.name for path in tmp_path.iterdir()] == ["decisions.sqlite.lock"]

    file.touch()  # what was there is left
    assert refused("--record", str(file), file_limit=4_096)[0] == 1
    assert file.exists()


def test_a_file_that_is_removed_is_begun_again(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "decisions.sqlite"
    with start("--record", str(file)) as address:
        ask(address, range(3))
        wait_for(lambda: outcomes(address) == (3, 0))
        for path in tmp_path.glob("decisions.sqlite*"):
            path.unlink()
        ask(address, range(3, 6))
        wait_for(lambda: outcomes(address) == (6, 0))
    assert [row["seq"] for row in rows_of(file)] == [3, 4, 5]


class Clock:
    """Time that passes when a test says so, and a date that it may set."""

    def __init__(self) -> None:
        self.elapsed, self.date = 1_000.0, NOON

    def advance(self, seconds: float) -> None:
        self.elapsed += seconds
        self.date += seconds

    def set_date(self, date: float) -> None:
        self.date = date

    @property
    def clocks(self) -> Clocks:
        return Clocks(elapsed=lambda: self.elapsed, date=lambda: self.date)


def write(writer: Writer, policy: Policy, date: float) -> None:
    writer.write([(policy, [decision(date)])])


def test_a_file_is_set_aside_by_age_under_a_name_that_sorts(tmp_path: Path, policy: Policy) -> None:
    clock = Clock()
    limits = Limits(size=10**9, age=60, keep=10)
    writer = Writer(tmp_path / "decisions.sqlite", limits, clock.clocks)
    for seconds in (0, 59, 1, 1, 59):
        clock.advance(seconds)
        write(writer, policy, clock.date)
    writer.close()
    names = [
        "decisions.20261123T120000.000000Z.sqlite",
        "decisions.20261123T120100.000000Z.sqlite",
        "decisions.sqlite",
    ]
    assert sorted(path.name for path in tmp_path.glob("*.sqlite")) == names
    assert [[row["time"] - NOON for row in rows_of(tmp_path / name)] for name in names] == [
        [0, 59],
        [60, 61],
        [120],
    ]
    assert [row.time - NOON for row in read(tmp_path / "decisions.sqlite")] == [0, 59, 60, 61, 120]
    assert [row.time - NOON for row in read(tmp_path / names[1])] == [60, 61]


def test_a_file_is_set_aside_by_size_and_only_so_many_are_kept(
    start: Start, tmp_path: Path
) -> None:
    file = tmp_path / "decisions.sqlite"
    with start("--record", str(file), "--record-size", "1", "--record-keep", "2") as address:
        for seq in range(5):
            ask(address, range(seq, seq + 1))
            wait_for(partial(settled, address, seq + 1))
    assert len(list(tmp_path.glob("*.sqlite"))) == 3
    assert [row.seq for row in read(file)] == [2, 3, 4]


def test_a_file_that_somebody_reads_is_set_aside_later_and_nothing_is_lost(
    tmp_path: Path, policy: Policy
) -> None:
    file = tmp_path / "decisions.sqlite"
    clock = Clock()
    writer = Writer(file, Limits(size=10**9, age=60, keep=10), clock.clocks)
    write(writer, policy, clock.date)
    # Not the standard library's: two copies of SQLite in one process do not see each other's locks.
    with closing(apsw.Connection(str(file), apsw.SQLITE_OPEN_READONLY)) as reader:
        assert reader.execute("SELECT count(*) FROM decisions").get == 1
        clock.advance(70)
        write(writer, policy, clock.date)
        assert reader.execute("SELECT count(*) FROM decisions").get == 2
    clock.set_date(NOON - 3_600)  # which keeps nobody from trying again
    clock.advance(20)
    write(writer, policy, clock.date)
    writer.close()
    assert [len(rows_of(path)) for path in sorted(tmp_path.glob("*.sqlite"))] == [2, 1]


@pytest.mark.parametrize("date", [NOON, 0.0])
def test_the_age_of_a_file_is_the_time_that_passed_whatever_the_clock_is_set_to(
    tmp_path: Path, policy: Policy, date: float
) -> None:
    clock = Clock()
    clock.set_date(NOON - date)  # 1970, as on a board without a battery, or today
    limits = Limits(size=10**9, age=60, keep=10)
    writer = Writer(tmp_path / "decisions.sqlite", limits, clock.clocks)
    write(writer, policy, clock.date)
    clock.set_date(date)
    clock.advance(59)
    write(writer, policy, clock.date)
    assert len(list(tmp_path.glob("*.sqlite"))) == 1
    clock.advance(1)
    write(writer, policy, clock.date)
    writer.close()
    assert len(list(tmp_path.glob("*.sqlite"))) == 2


def test_the_age_of_a_file_goes_on_with_the_next_process(tmp_path: Path, policy: Policy) -> None:
    clock = Clock()
    limits = Limits(size=10**9, age=60, keep=10)
    for seconds, files in ((0, 1), (59, 1), (1, 2), (-3_600, 2)):
        clock.advance(seconds)
        writer = Writer(tmp_path / "decisions.sqlite", limits, clock.clocks)
        write(writer, policy, clock.date)
        writer.close()
        assert len(list(tmp_path.glob("*.sqlite"))) == files


def test_a_batch_of_rows_is_written_whole_or_not_at_all(
    tmp_path: Path, policy: Policy, exported: Bundle
) -> None:
    file, count = tmp_path / "decisions.sqlite", 300
    writer = Writer(file, NEVER)
    rows = [decision(NOON + number, str(number)) for number in range(count)]
    writer.write([(policy, rows), (load(exported, "onnx"), rows)])
    broken = [*rows, (NOON, None, *rows[0][2:])]  # no request id
    with pytest.raises(RecordError, match="request_id"):
        writer.write([(policy, broken)])
    writer.write([(policy, rows[:1])])
    writer.close()
    recorded = list(read(file))
    assert [row.request_id for row in recorded] == [
        *(row[1] for row in rows),
        *(row[1] for row in rows),
        "0",
    ]
    assert [row.digest for row in recorded[::count]] == [
        policy.bundle.digest,
        exported.digest,
        policy.bundle.digest,
    ]


def test_a_policy_whose_actions_have_no_columns_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(COMMITTED, folder)
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"left"', '"port"'))
    code, error_text = refused(
        "--bundle", str(folder), "--record", str(tmp_path / "decisions.sqlite")
    )
    assert code == 1
    assert "port, right" in error_text
    assert not (tmp_path / "decisions.sqlite").exists()


READ = """
import os, sys
from pathlib import Path
from service.records.reader import read
if os.geteuid() == 0:  # whom no permission stops
    os.setgroups([])
    os.setgid(65_534)
    os.setuid(65_534)
print(len(list(read(Path(sys.argv[1])))))
"""


def read_as_another_user(record: Path) -> "subprocess.CompletedProcess[str]":
    """Read a record by a process that may write neither it nor its folder."""
    for path in record.parent.iterdir():
        path.chmod(0o444)
    for folder in (record.parent, *record.parent.parents[:2]):
        folder.chmod(0o555 if folder == record.parent else 0o755)
    try:
        return subprocess.run(
            [sys.executable, "-c", READ, str(record)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env=clean_environment() | {"PYTHONPATH": str(ROOT)},
        )
    finally:
        record.parent.chmod(0o755)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users reach, which pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="record-") as name:
        folder = Path(name) / "records"
        folder.mkdir()
        Path(name).chmod(0o755)
        yield folder


def test_a_record_that_was_closed_is_read_where_nothing_can_be_written(
    open_folder: Path, start: Start
) -> None:
    file = open_folder / "decisions.sqlite"
    with start("--record", str(file), "--record-size", "40000") as address:
        ask(address, range(100))
        wait_for(partial(settled, address, 100))
        ask(address, range(100, 120))
    assert read_as_another_user(file).stdout == "120\n"
    idle = open_folder / "idle.sqlite"
    with start("--record", str(idle)):
        pass
    result = read_as_another_user(idle)
    assert (result.stdout, result.stderr) == ("0\n", "")


def test_a_record_whose_reader_left_last_is_read_where_nothing_can_be_written(
    open_folder: Path, policy: Policy
) -> None:
    file = open_folder / "decisions.sqlite"
    writer = Writer(file, NEVER)
    writer.write([(policy, [decision(NOON)])])
    with closing(apsw.Connection(str(file))) as reader:
        reader.execute("SELECT count(*) FROM decisions").fetchall()
        writer.close()
    assert read_as_another_user(file).stdout == "1\n"


def used(file: Path) -> int:
    return sum(path.stat().st_size for path in file.parent.glob(f"{file.name}*"))


def test_the_size_of_a_file_counts_its_journal(tmp_path: Path, policy: Policy) -> None:
    file, size = tmp_path / "decisions.sqlite", 100_000
    writer = Writer(file, Limits(size=size, age=1e9, keep=1_000))
    most = 0
    for number in range(600):
        writer.write([(policy, [decision(NOON + number)] * 10)])
        most = max(most, used(file))
    writer.close()
    assert most < 1.5 * size
    older = [path.stat().st_size for path in tmp_path.glob("decisions.2*.sqlite")]
    assert older
    assert all(0.5 * size < each < 1.5 * size for each in older)
    assert len(list(read(file))) == 6_000


def test_a_reader_that_stays_makes_the_writer_go_on_in_another_file_and_is_told(
    tmp_path: Path, policy: Policy, caplog: pytest.LogCaptureFixture
) -> None:
    file, size = tmp_path / "decisions.sqlite", 100_000
    limits = Limits(size=size, age=1e9, keep=1_000)
    writer = Writer(file, limits)
    writer.write([(policy, [decision(NOON)])])
    with closing(apsw.Connection(str(file), apsw.SQLITE_OPEN_READONLY)) as reader:
        reader.execute("BEGIN; SELECT count(*) FROM decisions").fetchall()
        for number in range(1, 600):
            writer.write([(policy, [decision(NOON + number)] * 10)])
        assert used(file) < 3 * size
    assert caplog.text.count("keeps it from being set aside") == 1
    assert f"recorded in {tmp_path / 'decisions-1.sqlite'}" in caplog.text
    writer.close()

    writer = Writer(file, limits)  # the next start sets aside what the reader has left
    writer.write([(policy, [decision(NOON + 600)])])
    writer.close()
    assert len(list(read(file))) == 1 + 5_990 + 1
    assert [row.time for row in read(file)][-1] == NOON + 600
    assert file.stat().st_size < size
