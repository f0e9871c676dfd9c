from pathlib import Path

import pytest

from training.sweep.storage import Storage, StorageError


@pytest.fixture(params=["folder", "url"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    folder = tmp_path / "sweep"
    return str(folder) if request.param == "folder" else folder.as_uri()


def test_what_is_written_is_read_by_another_machine(place: str) -> None:
    Storage(place).write("rows/000001.json", b"one")
    Storage(place).write("rows/000001.json", b"two")
    assert Storage(place).read("rows/000001.json") == b"two"
    assert Storage(place).names("rows") == ["000001.json"]
    assert Storage(place).names() == ["rows"]


def test_what_is_not_there_is_none(place: str) -> None:
    storage = Storage(place)
    assert storage.read("nothing") is None
    assert storage.names("nothing") == []
    storage.remove("nothing")


def test_many_files_are_read_in_their_order(place: str) -> None:
    storage = Storage(place)
    names = [f"rows/{number}.json" for number in range(50)]
    for name in names:
        storage.write(name, name.encode())
    storage.remove(names[7])
    assert storage.read_all(names) == [name.encode() for name in names if name != names[7]]


def test_a_place_that_cannot_be_used_is_named() -> None:
    with pytest.raises(StorageError, match="nope://there"):
        Storage("nope://there")
    with pytest.raises(StorageError, match="/proc/nope: cannot be used"):
        Storage("/proc/nope").write("a", b"")


def test_two_drivers_do_not_share_a_folder(place: str) -> None:
    first, second = Storage(place), Storage(place)
    with (
        first.locked(),
        pytest.raises(StorageError, match="another sweep is at work"),
        second.locked(),
    ):
        pass
    with second.locked():
        pass


def test_with_a_file_goes_what_a_killed_writer_left_of_it(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    storage.write("checkpoints/000000.zip", b"whole")
    (tmp_path / "checkpoints" / ".000000.zip.0123456789abcdef").write_bytes(b"ha")
    storage.remove("checkpoints/000000.zip")
    assert list((tmp_path / "checkpoints").iterdir()) == []
