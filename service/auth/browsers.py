"""What browsers tell of where a request comes from, and what of it is allowed.

Any web page can make a browser send requests to a service that the browser reaches, such as one on
its own machine. Programs send none of the headers `Origin` and `Sec-Fetch-Site`, and name the
service in `Host` as they reach it, so they notice nothing of this.
"""

import socket
from collections.abc import Mapping
from ipaddress import ip_address

from service.settings import Settings, url_host

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
OTHER_SITES = (b"cross-site", b"same-site")  # the latter has other origins too
_DEFAULT_PORTS = (":80", ":443")


class AllowedHosts:
    """The names by which the service may be called; a service on loopback has loopback's alone.

    Else a page whose name was made to point to 127.0.0.1 could read all answers, since for the
    browser the service would be the page's own.
    """

    def __init__(self, settings: Settings) -> None:
        hosts = {url_host(host).lower() for host in settings.host}
        names = {name.lower() for name in settings.allowed_host}
        is_limited = bool(names) or all(map(_is_loopback, settings.host))
        self._names = names | LOOPBACK_NAMES | hosts if is_limited else set()  # none: any

    def allows(self, header: bytes) -> bool:
        """Return whether a request with this value of `Host` is answered."""
        if not self._names:
            return True
        return _without_port(header.decode("latin-1").lower()).removesuffix(".") in self._names


def is_foreign(headers: Mapping[bytes, bytes], origins: list[str]) -> bool:
    """Return whether a page that is neither the service's own nor of `origins` sent a request.

    `headers` has lower-case names. A page is the service's own where its origin names the host and
    port that the request was sent to, and `Sec-Fetch-Site`, if it was sent, does not say that
    another origin's page sent it. The scheme is left out: a proxy may have ended TLS.
    """
    is_of_other_site = headers.get(b"sec-fetch-site") in OTHER_SITES
    origin = headers.get(b"origin")
    if origin is None:
        return is_of_other_site

    text = origin.decode("latin-1")
    if text in origins:
        return False
    if is_of_other_site:
        return True
    _, separator, authority = text.partition("://")
    host = headers.get(b"host", b"").decode("latin-1")
    return not separator or _normal(authority) != _normal(host)


def _is_loopback(host: str) -> bool:
    """Return whether all addresses that a name or an address stands for are loopback's."""
    try:
        infos = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:  # to listen there fails too, and says why
        return False
    return all(ip_address(str(info[4][0]).partition("%")[0]).is_loopback for info in infos)


def _without_port(host: str) -> str:
    name, separator, port = host.rpartition(":")
    return name if separator and port.isdigit() and not name.endswith(":") else host


def _normal(authority: str) -> str:
    authority = authority.lower()
    for port in _DEFAULT_PORTS:
        authority = authority.removesuffix(port)
    return authority
