"""The Host header, which every request of HTTP/1.1 has once (RFC 9112, section 3.2)."""

import re

import httptools

from service.api import problems
from service.types import RawHeader

# A name, an IPv4 address or an IPv6 address in brackets, and perhaps a port (RFC 3986, 3.2.2). It
# is empty where the target of the request has no host.
_HOST = re.compile(rb"(?:[\w.~!$&'()*+,;=%-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?", re.ASCII)


def find_host(headers: list[RawHeader], http_version: str) -> bytes | None:
    """Return the value of a request's `Host`; None for one of HTTP/1.0 that has none.

    Raises `ProblemError` where there is none, more than one, or none that can be a host.
    """
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) > 1 or (not hosts and http_version == "1.1"):
        raise problems.not_http(
            f"A request has one Host header; this one has {len(hosts) or 'none'}"
        )
    if not hosts:
        return None

    if _HOST.fullmatch(hosts[0]) is None:
        raise problems.not_http("The Host header holds no host")
    return hosts[0]


def with_host_of_target(target: bytes, headers: list[RawHeader]) -> list[RawHeader]:
    """Return headers with the host of a target in absolute form, which counts (RFC 9112, 3.2.2).

    Raises `httptools.HttpParserInvalidURLError` for a target that has no path.
    """
    url = httptools.parse_url(target)
    if url.path is None:
        raise httptools.HttpParserInvalidURLError(f"no path: {target!r}")
    if not url.host:
        return headers

    host = b"[%b]" % url.host if b":" in url.host else url.host
    if url.port is not None:
        host += b":%d" % url.port
    return [(name, host if name == b"host" else value) for name, value in headers]
