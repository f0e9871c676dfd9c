"""A start says what it serves."""

from pathlib import Path

from models.bundle import Bundle
from tests.support.project import COMMITTED
from tests.support.service import Start


def test_a_start_says_what_it_serves_and_what_goes_on_beside(
    start: Start, tmp_path: Path, committed: Bundle
) -> None:
    record = tmp_path / "decisions.sqlite"
    beside = ("--record", str(record), "--shadow", str(COMMITTED), "--watch", "2")
    with start("--bundle", str(COMMITTED), *beside):
        log = (tmp_path / "service.log").read_text()
    assert (
        f"Serving cartpole-dqn, version 1, from {COMMITTED}: {committed.digest}, by onnx,"
        " for steps of 0.02 s;"
        f" shadow {COMMITTED}; record {record}; watched each 2 s\n"
    ) in log


def test_several_processes_say_it_once(start: Start, tmp_path: Path) -> None:
    with start("--workers", "2"):
        log = (tmp_path / "service.log").read_text()
    assert log.count("Serving cartpole-dqn, version 1") == 1
