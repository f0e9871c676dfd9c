"""Parses gRPC messages within limits: a small message must not become a large one.

A field of a message takes two bytes on the wire and some hundred in memory, and a compressed
message can become a thousand times as large. So messages are inflated up to a limit, and their
fields are counted before they are parsed.
"""

import zlib
from collections.abc import Callable
from http import HTTPStatus
from typing import TypeAlias

from google.protobuf.message import DecodeError, Message

from service.api.open_inference.protocol import OpenInferenceError
from service.inference.backends import STATE_SIZE
from service.inference.protobuf import BYTES, WireError, fields

FIELDS_BESIDE_NUMBERS = 1_000  # names, shapes, parameters; numbers may take a field each
GZIP_MAGIC = b"\x1f\x8b"
DEFLATE_MAGIC = b"\x78"  # as the first byte of a message: field 15, which none of ours has

# The fields that hold messages, by their numbers, of ModelInferRequest: parameters, inputs and
# outputs.
_Messages: TypeAlias = dict[int, "_Messages"]
_MESSAGES: _Messages = {4: {}, 5: {4: {}, 5: {}}, 6: {2: {}}}


def parse(
    deserialize: Callable[[bytes], Message], body: bytes, size_limit: int, max_batch: int
) -> Message:
    """Return a message. Raises `OpenInferenceError` or `DecodeError`."""
    if body.startswith((GZIP_MAGIC, DEFLATE_MAGIC)):
        body = _inflate(body, size_limit)
    limit = FIELDS_BESIDE_NUMBERS + STATE_SIZE * max_batch
    if len(body) > limit and _count_fields(body, 0, len(body), _MESSAGES, limit) > limit:
        raise OpenInferenceError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the request has more than {limit} fields"
        )
    return deserialize(body)


def _inflate(body: bytes, size_limit: int) -> bytes:
    """Return what a message compressed by gzip or deflate holds, up to `size_limit` bytes."""
    inflater = zlib.decompressobj(zlib.MAX_WBITS | 32)  # 32: either of the two
    try:
        inflated = inflater.decompress(body, size_limit + 1)
    except zlib.error as error:
        raise DecodeError from error
    if len(inflated) > size_limit:
        raise OpenInferenceError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"the request has more than {size_limit} bytes when it is inflated",
        )
    return inflated


def _count_fields(body: bytes, start: int, end: int, messages: _Messages, limit: int) -> int:
    """Return how many fields a message has with those inside it, or some number above `limit`.

    Bytes that are no message are left to the parser, which says so.
    """
    count = 0
    try:
        for number, wire_type, value_start, value_end in fields(body, start, end):
            count += 1
            inner = messages.get(number)
            if inner is not None and wire_type == BYTES:
                count += _count_fields(body, value_start, value_end, inner, limit - count)
            if count > limit:
                break
    except WireError:
        return count
    return count
