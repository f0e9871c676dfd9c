import multiprocessing
import os
import signal
import stat
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from models.files import (
    atomic_replacement,
    exclusive_lock,
    move_folder,
    remove,
    temporary_folder,
    write_atomically,
    write_durably,
)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_file_is_made_and_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    for content in (b"first", b"second"):
        write_atomically(path, content)
        assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_an_exception_leaves_the_older_file_and_no_rest(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text("older")

    def write_half() -> None:
        with atomic_replacement(path) as temp_path:
            temp_path.write_text("half of the")
            raise ValueError("interrupted")

    with pytest.raises(ValueError, match="interrupted"):
        write_half()
    assert path.read_text() == "older"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_whose_permissions_cannot_be_kept_is_left_as_it_was_and_no_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "keys.toml"
    path.write_text("older")

    def refuse(*_: object) -> None:
        raise PermissionError("not permitted")

    monkeypatch.setattr(os, "fchmod", refuse)
    with pytest.raises(PermissionError, match="not permitted"):
        write_atomically(path, b"newer")
    assert path.read_text() == "older"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("temporary", [atomic_replacement, temporary_folder])
def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path, temporary: "Temporary") -> None:
    with pytest.raises(FileNotFoundError), temporary(tmp_path / "nowhere" / "name"):
        pass


def test_a_new_file_has_the_permissions_asked_for_and_an_older_one_keeps_its_own(
    tmp_path: Path,
) -> None:
    path = tmp_path / "keys.toml"
    write_atomically(path, b"", mode=0o600)
    assert mode(path) == 0o600
    path.chmod(0o640)
    write_atomically(path, b"", mode=0o600)
    assert mode(path) == 0o640


def test_the_temporary_file_never_has_more_permissions_than_the_file(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    with atomic_replacement(path, mode=0o600) as temp_path:
        assert mode(temp_path) == 0o600


TEMPORARY = [atomic_replacement, temporary_folder]
Temporary = Callable[[Path], AbstractContextManager[Path]]


def _be_killed_within(temporary: Temporary, path: Path) -> None:
    with temporary(path):
        os.kill(os.getpid(), signal.SIGKILL)


def kill_a_writer(temporary: Temporary, path: Path) -> None:
    """Leave what a writer leaves that is killed."""
    process = multiprocessing.get_context("spawn").Process(
        target=_be_killed_within, args=(temporary, path)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("temporary", TEMPORARY)
def test_what_a_killed_writer_left_is_removed_by_the_next(
    tmp_path: Path, temporary: Temporary
) -> None:
    path = tmp_path / "name[0]"
    kill_a_writer(temporary, path)
    assert len(list(tmp_path.iterdir())) == 1
    with temporary(path) as temp_path:
        assert list(tmp_path.iterdir()) == [temp_path]


@pytest.mark.parametrize("temporary", TEMPORARY)
def test_what_a_killed_writer_left_goes_with_the_file(tmp_path: Path, temporary: Temporary) -> None:
    path = tmp_path / "checkpoint.zip"
    write_atomically(path, b"")
    kill_a_writer(temporary, path)
    remove(path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("temporary", TEMPORARY)
def test_a_writer_leaves_others_for_the_same_place_and_other_files_alone(
    tmp_path: Path, temporary: Temporary
) -> None:
    kill_a_writer(temporary, tmp_path / "state.json.old")
    for name in (".state.json.swp", ".state.json.0123456789abcdef~"):
        (tmp_path / name).touch()
    others = set(tmp_path.iterdir())
    path = tmp_path / "state.json"
    with temporary(path) as first:
        with temporary(path) as second:
            assert set(tmp_path.iterdir()) == {*others, first, second}
        assert set(tmp_path.iterdir()) - {path} == {*others, first}


def test_a_temporary_folder_is_removed_with_all_that_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    for content in ("first", "second"):
        with temporary_folder(path) as temp_folder:
            (temp_folder / "file").write_text(content)
            move_folder(temp_folder, path)
        assert (path / "file").read_text() == content
        assert list(tmp_path.iterdir()) == [path]


def test_write_durably_never_replaces(tmp_path: Path) -> None:
    write_durably(tmp_path / "file", b"first")
    with pytest.raises(FileExistsError):
        write_durably(tmp_path / "file", b"second")
    assert (tmp_path / "file").read_bytes() == b"first"


def _try_lock(path: Path, results: "multiprocessing.Queue[bool]") -> None:
    try:
        with exclusive_lock(path, wait=False):
            results.put(True)
    except BlockingIOError:
        results.put(False)


def test_a_link_is_no_lock_and_makes_no_file(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"), exclusive_lock(tmp_path / "lock"):
        pass
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("name", ["lock", "."])
def test_a_lock_on_a_file_or_a_folder_keeps_other_processes_out_until_its_end(
    tmp_path: Path, name: str
) -> None:
    processes = multiprocessing.get_context("spawn")
    results = processes.Queue()

    def other_process_gets_it() -> bool:
        process = processes.Process(target=_try_lock, args=(tmp_path / name, results))
        process.start()
        process.join()
        acquired: bool = results.get()
        return acquired

    with exclusive_lock(tmp_path / name):
        assert not other_process_gets_it()
    assert other_process_gets_it()


def test_a_folder_takes_the_place_of_another_in_one_step(tmp_path: Path) -> None:
    new, old = tmp_path / "new", tmp_path / "old"
    for folder in (new, old):
        folder.mkdir()
        (folder / "name").write_text(folder.name)
    move_folder(new, old)
    assert (old / "name").read_text() == "new"
    assert (new / "name").read_text() == "old"
    move_folder(old, tmp_path / "free")
    assert [entry.name for entry in (tmp_path / "free").iterdir()] == ["name"]
