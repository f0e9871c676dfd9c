"""Where the service listens, and how that is written."""

import os
import re
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

HOST_LIMIT = 253  # bytes of a name, RFC 1035
EXPECTED = "expected http://host:port, https://host:port/path or the path of a Unix socket"
_BASE_PATH = re.compile(r"(?:/[A-Za-z0-9._~!$&'()*+,;=:@%-]+)*")


@dataclass(frozen=True, slots=True)
class Address:
    """Where the service listens: a host and a port, or the path of a Unix socket.

    A gateway may show it below a path, `base_path`, which has a slash before it and none behind it.
    """

    host: str
    port: int
    path: str | None = None  # of a Unix socket
    is_secure: bool = False  # whether TLS is spoken
    base_path: str = ""

    def __str__(self) -> str:
        return self.path if self.path is not None else self.authority + self.base_path

    @property
    def authority(self) -> str:
        """The value of the Host header field."""
        if self.path is not None:
            return "localhost"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_address(address: str | os.PathLike[str]) -> Address:
    """Return the address of `http://host:port/base`, the same with https, `unix:/path` or a path.

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
        or not _BASE_PATH.fullmatch(parts.path.rstrip("/"))
        or parts.query
        or parts.fragment
        or parts.username is not None
    ):
        raise ValueError(f"{EXPECTED}, not {text!r}")
    for endpoint in ("/act/stream", "/act/batch", "/act"):
        if parts.path.rstrip("/").endswith(endpoint):
            raise ValueError(
                f"the address is the service's, without the path of an endpoint:"
                f" {text!r} ends with {endpoint}"
            )
    is_secure = parts.scheme in ("https", "wss")
    port = port or (443 if is_secure else 80)
    return Address(_checked_host(host), port, None, is_secure, parts.path.rstrip("/"))


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
