"""Keys: a request's `Authorization` header in, whether it opens a door out. Holds hashes only, and knows nothing of ASGI and of gRPC.

A key is 256 random bits, so one round of SHA-256 keeps it as well as a slow hash would: there is nothing to guess.
"""

import hmac
import ipaddress
import logging
import re
import tomllib
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from service.settings import Settings

log = logging.getLogger("uvicorn.error")  # the server's own log, whose handlers uvicorn sets up

Scope = Literal["act", "admin", "metrics"]
Refusal = Literal["missing", "unknown", "scope"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
EVENT = "upright_keys"  # that refusals are counted as

# What each door asks of a key, by its path; None is open. gRPC's methods have paths too. A door that is not here asks for `admin`,
# so that one which is added and forgotten is closed.
# Health is open because probes carry no key, the pages because what they show is public in the project's repository.
DOORS: dict[str, Scope | None] = {
    "/act": "act",
    "/act/batch": "act",
    "/act/stream": "act",
    "/model": "act",
    "/metrics": "metrics",
    "/health/live": None,
    "/health/ready": None,
    "/openapi.json": None,
    "/docs": None,
    "/docs/swagger-ui-bundle.js": None,
    "/docs/swagger-ui.css": None,
    "/docs/favicon.png": None,
    "/v2": "act",
    "/v2/health/live": None,
    "/v2/health/ready": None,
    "/v2/repository/index": "act",
    "/inference.GRPCInferenceService/ServerLive": None,
    "/inference.GRPCInferenceService/ServerReady": None,
    "/inference.GRPCInferenceService/ModelReady": None,
    "/inference.GRPCInferenceService/ServerMetadata": "act",
    "/inference.GRPCInferenceService/ModelMetadata": "act",
    "/inference.GRPCInferenceService/ModelConfig": "act",
    "/inference.GRPCInferenceService/ModelInfer": "act",
    "/inference.GRPCInferenceService/RepositoryIndex": "act",
    "/grpc.health.v1.Health/Check": None,
    "/grpc.health.v1.Health/List": None,
    "/grpc.health.v1.Health/Watch": None,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": None,
}
MODEL = re.compile(r"/v2/models/[^/]+(?:/versions/[^/]+)?(?P<rest>|/config|/infer|/ready)")


def scope_of(path: str) -> Scope | None:
    """Return the scope that a key needs for the door at this path; None where the door is open."""
    if path in DOORS:
        return DOORS[path]
    if found := MODEL.fullmatch(path):
        return None if found["rest"] == "/ready" else "act"
    return "admin"


class KeysError(Exception):
    """Raised when a file of keys cannot be used."""


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


class Keys:
    """The keys that open doors."""

    def __init__(self, file: Path, same: Callable[[bytes, bytes], bool] = hmac.compare_digest) -> None:
        """Read the keys. `same` compares two hashes in a time that does not depend on them. Raises `KeysError`."""
        self._file = file
        self._same = same
        self._known = _known(read(file))

    def refusal(self, header: bytes | None, scope: Scope | None) -> Refusal | None:
        """Return why an `Authorization` header does not open a door of this scope; None where it does."""
        if scope is None:
            return None
        if header is None or header[:7].lower() != b"bearer ":
            return "missing"
        presented = sha256(header[7:].strip()).digest()
        found = None
        for known, scopes in self._known:  # all of them, also after the right one: the time says nothing about which it was
            if self._same(presented, known):
                found = scopes
        if found is None:
            return "unknown"
        return None if scope in found else "scope"

    def allows(self, header: bytes | None, scope: Scope | None) -> bool:
        """Return whether an `Authorization` header opens a door of this scope."""
        return self.refusal(header, scope) is None

    def reload(self) -> None:
        """Read the file again. Where that fails, the keys that were read before stay, and the log says why."""
        try:
            self._known = _known(read(self._file))
        except KeysError as error:
            log.error("%s; the keys stay as they were", error)
        else:
            log.info("Keys were read again from %s: %d", self._file, len(self._known))


def keys_of(settings: Settings) -> Keys | None:
    """Return the keys that the settings name, or None where they name none. Raises `KeysError`."""
    return None if settings.keys is None else Keys(settings.keys)


def announce(settings: Settings) -> None:
    """Log whether keys are asked for, and a warning where they would be sent in clear. Logging must have been configured."""
    if settings.keys is None:
        log.info("Keys are off: whoever reaches the service is answered")
        return
    log.info("Keys are on, from %s", settings.keys)
    if settings.tls_cert is None and not settings.uds_only and not _is_loopback(settings.host):
        log.warning("Keys travel in clear to %s, and whoever sees them can use them: set --tls-cert and --tls-key", settings.host)


def describe(refusal: Refusal, path: str, scope: Scope) -> str:
    """Return what the caller is told, in words."""
    match refusal:
        case "missing":
            return f"{path} needs a key with the scope {scope}: send the header Authorization: Bearer KEY"
        case "unknown":
            return f"{path} needs a key with the scope {scope}: the key that was sent is not known here"
        case "scope":
            return f"{path} needs a key with the scope {scope}: the key that was sent is for something else"


def challenge(refusal: Refusal, scope: Scope) -> str:
    """Return the value of `WWW-Authenticate` (RFC 6750, section 3)."""
    match refusal:
        case "missing":
            return 'Bearer realm="upright"'
        case "unknown":
            return 'Bearer realm="upright", error="invalid_token"'
        case "scope":
            return f'Bearer realm="upright", error="insufficient_scope", scope="{scope}"'


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


def _known(entries: list[Entry]) -> list[tuple[bytes, frozenset[Scope]]]:
    return [(bytes.fromhex(entry.sha256), entry.scopes) for entry in entries]


def _explain(error: ValidationError, content: dict[str, object]) -> str:
    """Return the first thing that is wrong, and where."""
    detail = error.errors(include_url=False, include_input=False)[0]
    match detail["loc"]:
        case ("key", int(index), *rest):
            listed = content["key"]
            entry = listed[index] if isinstance(listed, list) else None
            name = entry.get("name") if isinstance(entry, dict) else None
            place = f"key {name!r}" if isinstance(name, str) and rest != ["name"] else f"key {index + 1} of the file"
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


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
