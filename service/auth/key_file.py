"""The file that keys are kept in, as TOML: how it is read, and how a key is added to it."""

import hmac
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from models.files import atomic_replacement, exclusive_lock
from models.toml import TomlError, read_toml
from service.auth.keys import Comparison, Keys, KeysError, KnownKey
from service.endpoints import Scope
from service.settings import Settings

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


def _nothing() -> None:
    """Do nothing."""


class KeyEntry(BaseModel):
    """One key: who has it, what it allows, and its hash."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, StringConstraints(pattern=f"^{_NAME.pattern}$")]
    scopes: Annotated[frozenset[Scope], Field(min_length=1)]
    sha256: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]


class _Content(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    key: list[KeyEntry] = []


def keys_from_settings(settings: Settings) -> Keys | None:
    """Return the keys that the settings name, or None where keys are off. Raises `KeysError`."""
    if settings.keys is None:
        return None
    try:
        return load_keys(settings.keys)
    except KeysError as error:
        raise KeysError(f"--keys {error}") from error


def load_keys(path: Path, compare: Comparison = hmac.compare_digest) -> Keys:
    """Return the keys of a file. Raises `KeysError`."""

    def read() -> list[KnownKey]:
        return [KnownKey(bytes.fromhex(entry.sha256), entry.scopes) for entry in read_entries(path)]

    return Keys(read, str(path), compare)


def read_entries(path: Path) -> list[KeyEntry]:
    """Return the entries of a file.

    Raises `KeysError`, whose text never holds what stands in place of a hash: it may be a key.
    """
    try:
        content = read_toml(path)
    except TomlError as error:
        raise KeysError(f"{path}: {error}") from error

    try:
        entries = _Content.model_validate(content).key
    except ValidationError as error:
        raise KeysError(f"{path}: {_explain(error, content)}") from error

    _check_unique(path, "name", entries, [entry.name for entry in entries])
    _check_unique(path, "sha256", entries, [entry.sha256 for entry in entries])
    return entries


def add_key(
    path: Path,
    name: str,
    scopes: Sequence[Scope],
    digest: str,
    *,
    before: Callable[[], None] = _nothing,
) -> None:
    """Add an entry to a file, or make the file; `digest` is the key's SHA-256 in hexadecimal.

    `before` is called once all is checked and written but for the last step, which gives the file
    its name; where it raises, the file stays as it was. Others see the whole old file or the whole
    new one. A new file is its owner's alone; a file that was there keeps its owner and its mode.
    Raises `KeysError`.
    """
    if _NAME.fullmatch(name) is None:
        raise KeysError(
            f"{name!r} is no name for a key: "
            "expected 1 to 64 letters, digits, dots, dashes and underscores"
        )

    path = path.resolve()  # a link stays a link
    try:
        path.parent.stat()  # locking a folder that is absent would make a file of its name
        with exclusive_lock(path.parent):
            text = path.read_text() if path.exists() else ""
            _replace(path, text + _entry_text(text, name, scopes, digest), before)
    except OSError as error:
        raise KeysError(f"{error.filename or path}: {error.strerror}") from error


def _entry_text(text: str, name: str, scopes: Sequence[Scope], digest: str) -> str:
    """Return the lines of an entry that follows `text`, after an empty line if there is any."""
    separator = "" if not text else "\n" if text.endswith("\n") else "\n\n"
    quoted = ", ".join(f'"{scope}"' for scope in dict.fromkeys(scopes))
    return f'{separator}[[key]]\nname = "{name}"\nscopes = [{quoted}]\nsha256 = "{digest}"\n'


def _replace(path: Path, text: str, before: Callable[[], None]) -> None:
    """Replace the content of a file, if it can be read as keys. Raises `KeysError`, `OSError`.

    `before` is called as the last thing before that.
    """
    with atomic_replacement(path, mode=0o600) as temp_path:
        temp_path.write_text(text)
        try:
            read_entries(temp_path)
        except KeysError as error:
            raise KeysError(str(error).replace(str(temp_path), str(path))) from error
        before()


def _check_unique(path: Path, field: str, entries: list[KeyEntry], values: list[str]) -> None:
    earlier: set[str] = set()
    for entry, value in zip(entries, values, strict=True):
        if value in earlier:
            raise KeysError(f"{path}: key {entry.name!r} has the same {field} as another one")
        earlier.add(value)


def _explain(error: ValidationError, content: dict[str, object]) -> str:
    """Return the first thing that is wrong, and where."""
    detail = error.errors(include_url=False, include_input=False)[0]
    place = _place(detail["loc"], content)

    match detail["type"]:
        case "missing":
            return f"{place}: is missing"
        case "extra_forbidden":
            return f"{place}: there is no field of this name; a key has name, scopes and sha256"
        case "string_pattern_mismatch" if place.endswith("sha256"):
            return f"{place}: must be the 64 small hexadecimal digits of the key's SHA-256"
        case _:
            return f"{place}: {detail['msg'][0].lower()}{detail['msg'][1:]}"


def _place(location: tuple[int | str, ...], content: dict[str, object]) -> str:
    """Return where in the file something is wrong, by the name of the entry if it has one."""
    match location:
        case ("key", int(index), *fields):
            entries = content["key"]
            entry = entries[index] if isinstance(entries, list) else None
            name = entry.get("name") if isinstance(entry, dict) else None
            has_name = isinstance(name, str) and fields != ["name"]
            place = f"key {name!r}" if has_name else f"key {index + 1} of the file"
            return f"{place}, {fields[0]}" if fields else place
        case _:
            return ".".join(str(part) for part in location)
