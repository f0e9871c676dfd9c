"""Keys: a request's `Authorization` header in, whether it opens a door out. Holds hashes only, and knows nothing of ASGI and of gRPC.

A key is 256 random bits, so one round of SHA-256 keeps it as well as a slow hash would: there is nothing to guess.
"""

import hmac
import ipaddress
import logging
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Literal

from service.endpoints import Scope
from service.settings import Settings

log = logging.getLogger("uvicorn.error")  # the server's own log, whose handlers uvicorn sets up

Refusal = Literal["missing", "unknown", "scope"]
EVENT = "upright_keys"  # that refusals are counted as


class KeysError(Exception):
    """Raised when a file of keys cannot be used."""


class Keys:
    """The keys that open doors."""

    def __init__(
        self, file: Path, same: Callable[[bytes, bytes], bool] = hmac.compare_digest
    ) -> None:
        """Read the keys. `same` compares two hashes in a time that does not depend on them. Raises `KeysError`."""
        self._file = file
        self._same = same
        self._known = _known(file)
        self._opened: dict[
            bytes, tuple[bytes, frozenset[Scope]]
        ] = {}  # keys that have opened a door, by their hashes

    def refusal(self, header: bytes | None, scope: Scope | None) -> Refusal | None:
        """Return why an `Authorization` header does not open a door of this scope; None where it does."""
        if scope is None:
            return None
        if header is None or header[:7].lower() != b"bearer ":
            return "missing"
        scopes = self._scopes(header[7:].strip())
        if scopes is None:
            return "unknown"
        return None if scope in scopes else "scope"

    def allows(self, header: bytes | None, scope: Scope | None) -> bool:
        """Return whether an `Authorization` header opens a door of this scope."""
        return self.refusal(header, scope) is None

    def _scopes(self, presented: bytes) -> frozenset[Scope] | None:
        """Return what a key opens. All are looked at, also after the right one: the time says nothing about which it was."""
        found = None
        for (
            opened,
            scopes,
        ) in self._opened.values():  # a key that comes again need not be hashed again
            if self._same(presented, opened):
                found = scopes
        if found is not None:
            return found
        digest = sha256(presented).digest()
        for known, scopes in self._known:
            if self._same(digest, known):
                found = scopes
        if found is not None:
            self._opened[digest] = presented, found
        return found

    def reload(self) -> None:
        """Read the file again. Where that fails, the keys that were read before stay, and the log says why."""
        try:
            self._known, self._opened = _known(self._file), {}
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
    on_network = not settings.uds_only or settings.grpc_port is not None
    if settings.tls_cert is None and on_network and not _is_loopback(settings.host):
        log.warning(
            "Keys travel in clear to %s, and whoever sees them can use them: set --tls-cert and --tls-key",
            settings.host,
        )


def describe(refusal: Refusal, path: str, scope: Scope) -> str:
    """Return what the caller is told, in words."""
    hints: dict[Refusal, str] = {
        "missing": "send the header Authorization: Bearer KEY",
        "unknown": "the key that was sent is not known here",
        "scope": "the key that was sent is for something else",
    }
    return f"{path[:200]} needs a key with the scope {scope}: {hints[refusal]}"


def challenge(refusal: Refusal, scope: Scope) -> str:
    """Return the value of `WWW-Authenticate` (RFC 6750, section 3)."""
    match refusal:
        case "missing":
            return 'Bearer realm="upright"'
        case "unknown":
            return 'Bearer realm="upright", error="invalid_token"'
        case "scope":
            return f'Bearer realm="upright", error="insufficient_scope", scope="{scope}"'


def _known(file: Path) -> list[tuple[bytes, frozenset[Scope]]]:
    from service.auth import (
        key_file,  # what reads it takes some milliseconds, which a start without keys does not have to wait for
    )

    return [(bytes.fromhex(entry.sha256), entry.scopes) for entry in key_file.read(file)]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
