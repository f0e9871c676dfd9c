"""What browsers tell of where a request comes from, and what of it is allowed.

Any web page can make a browser send requests to a service that the browser reaches, such as one on
its own machine. Programs send none of the headers `Origin` and `Sec-Fetch-Site`, and name the
service in `Host` as they reach it, so they notice nothing of this.
"""

from collections.abc import Mapping

from service.settings import Settings

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
KNOWN_HOSTS_LIMIT = 64  # values of Host that are remembered
_DEFAULT_PORTS = (":80", ":443")


class AllowedHosts:
    """The names by which the service may be called; a service on loopback has loopback's alone.

    Else a page whose name was made to point to 127.0.0.1 could read all answers, since for the
    browser the service would be the page's own.
    """

    def __init__(self, settings: Settings) -> None:
        host = f"[{settings.host}]" if ":" in settings.host else settings.host.lower()
        is_loopback = host in LOOPBACK_NAMES or host.startswith("127.")
        names = {name.lower() for name in settings.allowed_host}
        self._names = names | LOOPBACK_NAMES | {host} if is_loopback or names else set()
        self.is_limited = bool(self._names)
        # Headers that were found to be allowed: the fast path looks for them here alone.
        self.known: set[bytes] = set()
        for name in self._names:
            self.known |= {name.encode(), f"{name}:{settings.port}".encode()}

    def allows(self, header: bytes) -> bool:
        """Return whether a request with this value of `Host` is answered."""
        if not self.is_limited or header in self.known:
            return True
        name = _without_port(header.decode("latin-1").lower()).removesuffix(".")
        if name not in self._names:
            return False
        if len(self.known) < KNOWN_HOSTS_LIMIT:
            self.known.add(header)
        return True


def is_foreign(headers: Mapping[bytes, bytes], origins: list[str]) -> bool:
    """Return whether a page that is neither the service's own nor of `origins` sent a request.

    `headers` has lower-case names. A page is the service's own where its origin names the host and
    port that the request was sent to. The scheme is left out: a proxy may have ended TLS.
    """
    origin = headers.get(b"origin")
    if origin is None:
        return headers.get(b"sec-fetch-site") in (b"cross-site", b"same-site")

    text = origin.decode("latin-1")
    if text in origins:
        return False
    _, separator, authority = text.partition("://")
    host = headers.get(b"host", b"").decode("latin-1")
    return not separator or _normal(authority) != _normal(host)


def _without_port(host: str) -> str:
    name, separator, port = host.rpartition(":")
    return name if separator and port.isdigit() and not name.endswith(":") else host


def _normal(authority: str) -> str:
    authority = authority.lower()
    for port in _DEFAULT_PORTS:
        authority = authority.removesuffix(port)
    return authority
