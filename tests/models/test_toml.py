"""TOML from outside is read, or refused by a text that says why."""

import sys
from pathlib import Path

import pytest

from models.toml import DEPTH_LIMIT, TomlError, parse_toml, read_toml


def test_a_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text('name = "[ü"\n[[row]]\nvalues = [[1], [2]]\n[[row]]\n', encoding="utf-8")
    assert read_toml(file) == {"name": "[ü", "row": [{"values": [[1], [2]]}, {}]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"port = ", "is no TOML"),
        (b"port = " + b"9" * 5_000, "is no TOML"),
        (b"\xff\xfe", "is no text"),
        (None, "cannot be read (No such file or directory)"),
    ],
)
def test_what_is_no_toml_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "a.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(TomlError) as raised:
        read_toml(file)
    assert str(raised.value).startswith(message)


def test_a_path_that_cannot_be_is_refused() -> None:
    with pytest.raises(TomlError, match="no path of a file"):
        read_toml(Path("a\0b"))


@pytest.mark.parametrize("opening", ["[", "{a = ", "[{a = "])
def test_many_brackets_are_refused_before_the_stack_is_used_up(opening: str) -> None:
    # The stack that is left here is too small for a parser that calls itself for each bracket.
    sys.setrecursionlimit(depth_of_the_stack() + 60)
    try:
        with pytest.raises(TomlError, match=f"more than {DEPTH_LIMIT} brackets"):
            parse_toml("value = " + opening * 5_000)
    finally:
        sys.setrecursionlimit(1_000)


def test_nested_lists_up_to_the_limit_are_read() -> None:
    text = "value = " + "[" * DEPTH_LIMIT + "]" * DEPTH_LIMIT
    assert parse_toml(text)["value"] != []


def depth_of_the_stack() -> int:
    frame, depth = sys._getframe(), 0
    while frame.f_back is not None:
        frame, depth = frame.f_back, depth + 1
    return depth
