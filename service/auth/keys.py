"""Keys: whether a request's `Authorization` header allows what it asks for.

Only hashes of keys are kept in files. A key is 256 random bits, so one round of SHA-256 protects it
as well as a slow hash would: there is nothing to guess.
"""

import hmac
import ipaddress
import logging
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import sha256
from typing import Literal, NamedTuple

from service.endpoints import Scope
from service.settings import Settings

log = logging.getLogger("uvicorn.error")  # the server's own log

Refusal = Literal["missing", "unknown", "scope"]
EVENT = "upright_keys"  # the metric that refusals are counted in


class KeysError(Exception):
    """Raised when a file of keys cannot be used."""


class KnownKey(NamedTuple):
    """A key that the service accepts."""

    digest: bytes  # SHA-256 of the key
    scopes: frozenset[Scope]


KeyReader = Callable[[], Sequence[KnownKey]]  # raises `KeysError`
Comparison = Callable[[bytes, bytes], bool]


class Keys:
    """The keys that the service accepts."""

    def __init__(
        self, read: KeyReader, source: str, compare: Comparison = hmac.compare_digest
    ) -> None:
        """Read the keys. Raises `KeysError`.

        `source` names in the log where they come from. `compare` compares two keys or hashes, in a
        time that does not depend on them.
        """
        self._read = read
        self._source = source
        self._compare = compare
        self._known = read()
        # Keys that were accepted, by their hashes: one that comes again need not be hashed again.
        self._accepted: dict[bytes, tuple[bytes, frozenset[Scope]]] = {}

    def refusal(self, header: bytes | None, scope: Scope | None) -> Refusal | None:
        """Return why an `Authorization` header is not enough for a scope; None where it is."""
        if scope is None:
            return None
        if header is None or header[:7].lower() != b"bearer ":
            return "missing"

        scopes = self._scopes_of(header[7:].strip())
        if scopes is None:
            return "unknown"
        return None if scope in scopes else "scope"

    def allows(self, header: bytes | None, scope: Scope | None) -> bool:
        """Return whether an `Authorization` header is enough for a scope."""
        return self.refusal(header, scope) is None

    def reload(self) -> None:
        """Read the keys again. Where that fails, the present ones stay, and the log says why."""
        try:
            self._known, self._accepted = self._read(), {}
        except KeysError as error:
            log.error("%s; the keys stay as they were", error)
        else:
            log.info("Keys were read again from %s: %d", self._source, len(self._known))

    def _scopes_of(self, key: bytes) -> frozenset[Scope] | None:
        """Return the scopes of a key, or None where it is not known.

        Every known key is compared, also after the right one: the time says nothing about which
        one it was.
        """
        scopes = None
        for accepted, accepted_scopes in self._accepted.values():
            if self._compare(key, accepted):
                scopes = accepted_scopes
        if scopes is not None:
            return scopes

        digest = sha256(key).digest()
        for known in self._known:
            if self._compare(digest, known.digest):
                scopes = known.scopes
        if scopes is not None:
            self._accepted[digest] = key, scopes
        return scopes


def announce(settings: Settings) -> None:
    """Log whether keys are asked for, and warn where they would travel in clear.

    Logging must have been configured.
    """
    on_network = not settings.uds_only or settings.grpc_port is not None
    exposed = [host for host in settings.host if on_network and not _is_loopback(host)]
    if settings.keys is None:
        log.log(
            logging.WARNING if exposed else logging.INFO,
            "Keys are off: whoever reaches the service is answered",
        )
        return

    log.info("Keys are on, from %s", settings.keys)
    with suppress(OSError):  # it was read, and may have gone since
        if settings.keys.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            log.warning("%s can be written by others than its owner: chmod 640", settings.keys)
    if settings.tls_cert is None and exposed:
        log.warning(
            "Keys travel in clear to %s, and whoever sees them can use them: "
            "set --tls-cert and --tls-key",
            ", ".join(exposed),
        )


def describe(refusal: Refusal, path: str, scope: Scope) -> str:
    """Return what the caller of a path is told, in words."""
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


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
