"""Where the service listens, and how that is written."""

import os
from dataclasses import dataclass
from urllib.parse import urlsplit

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
        return Address("", 0, text.removeprefix("unix:").removeprefix("//"))

    parts = urlsplit(text)
    if (
        parts.scheme not in ("http", "ws", "https", "wss")
        or not parts.hostname
        or parts.path.strip("/")
        or parts.query
        or parts.username is not None
    ):
        raise ValueError(f"{EXPECTED}, not {text!r}")
    is_secure = parts.scheme in ("https", "wss")
    return Address(parts.hostname, parts.port or (443 if is_secure else 80), None, is_secure)
