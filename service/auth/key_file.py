"""A file of keys: TOML in, entries out; what is wrong is told by the name of its entry. Knows nothing of requests."""

import re
import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from service.auth.keys import KeysError
from service.endpoints import Scope

NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Entry(BaseModel):
    """One key: who has it, what it opens, and the hash that it is known by."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, StringConstraints(pattern=f"^{NAME.pattern}$")]
    scopes: Annotated[frozenset[Scope], Field(min_length=1)]
    sha256: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]


class KeyFile(BaseModel):
    """A file of keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: list[Entry] = []


def read(file: Path) -> list[Entry]:
    """Return the entries of a file of keys. Raises `KeysError`, which never holds what stands in place of a hash: it may be a key."""
    try:
        content = tomllib.loads(file.read_text())
    except OSError as error:
        raise KeysError(f"{file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise KeysError(f"{file}: is no text") from error
    except tomllib.TOMLDecodeError as error:
        raise KeysError(f"{file}: is no TOML: {error}") from error
    try:
        entries = KeyFile.model_validate(content).key
    except ValidationError as error:
        raise KeysError(f"{file}: {_explain(error, content)}") from error
    for what in ("name", "sha256"):
        seen: dict[str, str] = {}
        for entry in entries:
            if getattr(entry, what) in seen:
                raise KeysError(f"{file}: key {entry.name!r} has the same {what} as another one")
            seen[getattr(entry, what)] = entry.name
    return entries


def _explain(error: ValidationError, content: dict[str, object]) -> str:
    """Return the first thing that is wrong, and where."""
    detail = error.errors(include_url=False, include_input=False)[0]
    match detail["loc"]:
        case ("key", int(index), *rest):
            listed = content["key"]
            entry = listed[index] if isinstance(listed, list) else None
            name = entry.get("name") if isinstance(entry, dict) else None
            place = (
                f"key {name!r}"
                if isinstance(name, str) and rest != ["name"]
                else f"key {index + 1} of the file"
            )
            place += f", {rest[0]}" if rest else ""
        case place_in_file:
            place = ".".join(str(part) for part in place_in_file)
    match detail["type"]:
        case "missing":
            return f"{place}: is missing"
        case "extra_forbidden":
            return f"{place}: there is no field of this name; a key has name, scopes and sha256"
        case "string_pattern_mismatch" if place.endswith("sha256"):
            return f"{place}: must be the 64 small hexadecimal digits of the key's SHA-256"
        case _:
            return f"{place}: {detail['msg'][0].lower()}{detail['msg'][1:]}"
