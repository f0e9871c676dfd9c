"""A result that nobody gets is a failure, told in one line, and a key that nobody saw is none."""

from pathlib import Path

import pytest

from models.bundle import Bundle
from service.auth.key_file import read_entries
from tests.service.commands.test_health import health, service
from tests.support.records import ask
from tests.support.service import Start, run_program

FULL = 'exec "$@" >/dev/full'
CLOSED = 'exec "$@" >&-'
REASONS = {
    FULL: "standard output cannot be written (No space left on device)",
    CLOSED: "standard output is closed",
}


def run(shell: str, *arguments: str | Path) -> tuple[int, str]:
    """Run a command whose standard output goes where the shell's line says."""
    result = run_program(*arguments, shell=shell)
    return result.returncode, result.stderr


@pytest.fixture
def record(start: Start, tmp_path: Path) -> Path:
    file = tmp_path / "decisions.sqlite"
    with start("--record", str(file)) as address:
        ask(address, range(3))
    return file


@pytest.mark.parametrize("shell", [FULL, CLOSED])
def test_a_key_that_cannot_be_shown_is_not_added(tmp_path: Path, shell: str) -> None:
    file = tmp_path / "keys.toml"
    arguments = ("key", "loop-7", "--scope", "act", "--keys", file)
    assert run(shell, *arguments) == (1, f"upright: {REASONS[shell]}\n")
    assert list(tmp_path.iterdir()) == []

    assert run('exec "$@" >/dev/null', *arguments)[0] == 0
    before = file.read_bytes()
    assert run(shell, *(argument.replace("7", "8") for argument in map(str, arguments)))[0] == 1
    assert file.read_bytes() == before
    assert [entry.name for entry in read_entries(file)] == ["loop-7"]


@pytest.mark.parametrize("shell", [FULL, CLOSED])
def test_a_replay_that_cannot_be_told_is_not_taken_for_identical(
    record: Path, committed: Bundle, shell: str
) -> None:
    status, error = run(shell, "replay", record, "--bundle", committed.folder)
    assert (status, error) == (2, f"upright: {REASONS[shell]}\n")


@pytest.mark.parametrize("shell", [FULL, CLOSED])
def test_an_export_that_cannot_be_told_is_whole(record: Path, tmp_path: Path, shell: str) -> None:
    target = tmp_path / "rows.csv"
    status, error = run(shell, "export", record, "--to", target)
    assert status == 1
    assert error == f"upright: {target}: 3 rows are written, but {REASONS[shell]}\n"
    assert len(target.read_text().splitlines()) == 4


def test_a_probe_whose_output_nobody_takes_is_told_by_its_exit_code(tmp_path: Path) -> None:
    with service(tmp_path):
        assert health(tmp_path)[0] == 0
        for shell, reason in REASONS.items():
            result = run_program(
                "health", shell=shell, environment={"XDG_RUNTIME_DIR": str(tmp_path)}
            )
            assert (result.returncode, result.stderr) == (0, f"upright: {reason}\n")
