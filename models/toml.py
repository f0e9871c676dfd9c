"""TOML from outside: files of settings, keys and sweeps, and values on a command line."""

import tomllib
from pathlib import Path
from typing import Any

DEPTH_LIMIT = 100  # brackets in each other; tomllib calls itself for each and would fail late


class TomlError(Exception):
    """Raised when a file or text cannot be read as TOML; its text says why, and names no file."""


def read_toml(path: Path) -> dict[str, Any]:
    """Return the content of a file. Raises `TomlError`."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise TomlError(f"cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise TomlError("is no text") from error
    except ValueError as error:
        raise TomlError(f"is no path of a file: {error}") from error
    return parse_toml(text)


def parse_toml(text: str) -> dict[str, Any]:
    """Return the content of a text. Raises `TomlError`."""
    depth = 0
    for character in text:
        if character in "[{":
            depth += 1
            if depth > DEPTH_LIMIT:
                raise TomlError(f"is no TOML: more than {DEPTH_LIMIT} brackets in each other")
        elif character in "]}":
            depth = max(0, depth - 1)

    try:
        return tomllib.loads(text)
    except ValueError as error:  # TOMLDecodeError, and what `int` says of thousands of digits
        raise TomlError(f"is no TOML: {error}") from error
