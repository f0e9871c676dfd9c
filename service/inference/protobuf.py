"""Reads the fields of Protocol Buffers messages without making objects of them.

What a message would become in memory can be far larger than its bytes, so that limits are checked
here first (https://protobuf.dev/programming-guides/encoding).
"""

from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # the wire types; 3 and 4, groups, are deprecated

Field = tuple[int, int, int, int]  # its number, its wire type, and where its value begins and ends


class WireError(ValueError):
    """Raised where bytes are no message."""


def varint(number: int) -> bytes:
    """Return a number from 0 as a message holds it ("Base 128 Varints")."""
    content = bytearray()
    while number > 0x7F:
        content.append(number & 0x7F | 0x80)
        number >>= 7
    content.append(number)
    return bytes(content)


def fields(body: bytes, start: int, end: int) -> Iterator[Field]:
    """Give the fields of the message between two positions. Raises `WireError`."""
    position = start
    while position < end:
        tag, position = _varint(body, position, end)
        wire_type = tag & 7
        value = position
        match wire_type:
            case 0:
                _, position = _varint(body, position, end)
            case 1:
                position += 8
            case 2:
                size, value = _varint(body, position, end)
                position = value + size
            case 5:
                position += 4
            case _:
                raise WireError(f"there is no wire type {wire_type}")
        if position > end:
            raise WireError("a field is longer than its message")
        yield tag >> 3, wire_type, value, position


def _varint(body: bytes, position: int, end: int) -> tuple[int, int]:
    """Return the number at a position, and the position behind it."""
    value = shift = 0
    while position < end and shift < 64:
        byte = body[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise WireError("a number does not end")
