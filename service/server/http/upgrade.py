"""Offers to speak another protocol (RFC 9110, section 7.8).

WebSocket is accepted; every other offer, such as h2c, is declined.
"""

from service.types import RawHeader


def without_offer(
    method: bytes, target: bytes, http_version: str, headers: list[RawHeader]
) -> bytes:
    """Return the start of a request as if it had offered no other protocol.

    The parser stops after the headers of a request with an offer, and cannot go on: a new parser
    reads this in its place.
    """
    lines = [b"%b %b HTTP/%b\r\n" % (method, target, http_version.encode())]
    for name, value in headers:
        if name not in (b"upgrade", b"connection"):
            lines += [name, b": ", value, b"\r\n"]
        elif b"close" in value.lower():
            lines.append(b"connection: close\r\n")
    return b"".join([*lines, b"\r\n"])
