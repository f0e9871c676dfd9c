"""Where the service listens, and how that is written."""

import os
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

HOST_LIMIT = 253  # bytes of a name, RFC 1035
EXPECTED = "expected http://host:port, https://host:port or the path of a Unix socket"


@dataclass(frozen=True, slots=True)
class Address:
    """Where the service listens: a host and a port, or the path of a Unix socket."""

    host: str
    port: int
    path: str | None = None  # of a Unix socket
    is_secure: bool = False  # whether TLS is spoken

    def __str__(self) -> str:
        return self.path if self.path is not None else self.authority

    @property
    def authority(self) -> str:
        """The value of the Host header field."""
        if self.path is not None:
            return "localhost"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_address(address: str | os.PathLike[str]) -> Address:
    """Return the address of `http://host:port`, `https://host:port`, `unix:/path` or a path.

    Raises `ValueError` where the text is none of these.
    """
    text = os.fspath(address)
    if text.startswith(("unix:", "/", ".")):
        return _unix_address(text.removeprefix("unix:").removeprefix("//"))

    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"{EXPECTED}, not {text!r}: {error}") from error
    if (
        parts.scheme not in ("http", "ws", "https", "wss")
        or not host
        or parts.path.strip("/")
        or parts.query
        or parts.username is not None
    ):
        raise ValueError(f"{EXPECTED}, not {text!r}")
    is_secure = parts.scheme in ("https", "wss")
    return Address(_checked_host(host), port or (443 if is_secure else 80), None, is_secure)


def _unix_address(path: str) -> Address:
    if not hasattr(socket, "AF_UNIX"):
        raise ValueError(f"this system has no Unix sockets: {path!r} needs them, http:// does not")
    if not path or "\0" in path:
        raise ValueError(f"{EXPECTED}, not {path!r}")
    return Address("", 0, path)


def _checked_host(host: str) -> str:
    """Return a name as the Host field and resolvers take it. Raises `ValueError`."""
    try:
        encoded = host.encode("idna").decode()
    except UnicodeError as error:
        raise ValueError(f"no host can be called {host[:100]!r}: {error}") from error
    if len(encoded) > HOST_LIMIT:
        raise ValueError(f"no host can be called {host[:100]!r}…: more than {HOST_LIMIT} bytes")
    return encoded
