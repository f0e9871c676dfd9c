"""Answers to inference requests over REST that are known but for their states and their id.

A control loop sends the same document again and again, with other numbers in its tensor or in the
bytes behind it. The first one is validated and answered as any other; from then on the rest of the
document says what is asked for, and the answer is put together as bytes. To validate and to render
would cost more than the inference.
"""

from collections.abc import Sequence
from typing import NamedTuple

from pydantic import ValidationError
from pydantic_core import from_json, to_json

from service.api.open_inference.known_states import (
    STATE_BYTES,
    action_bytes,
    infer_bytes,
    infer_numbers,
    q_value_bytes,
)
from service.api.open_inference.protocol import OUTPUTS
from service.api.open_inference.rest import BYTES, RAW_HEADER_LENGTH, validate
from service.api.open_inference.schemas import InferRequest
from service.api.problems import JSON
from service.api.ranges import STRICT
from service.inference.policy import Inference, Policy, Rows
from service.types import Body

LONGEST = 1_000  # bytes of a request that is kept in mind, without its states
MOST = 64  # requests that are; then all are forgotten
LONGEST_LENGTH = 6  # digits of the header that says where a document ends
# These bytes never stand within a string of JSON, where a quote has a backslash before it.
_DATA, _ID, _OUTPUT_DATA, _OUTPUT_ID = b'"data"', b'"id"', b'"data":', b'"id":"'

# What a request is known by: all that stands before, between and after its numbers and its id,
# after a word for the form of its states.
Key = tuple[bytes, ...]
# An answer's content, its media type, its header lines and the inference behind it.
Answer = tuple[bytes, str, bytes, Inference]


class _Parts(NamedTuple):
    """A request, taken apart."""

    key: Key
    numbers: bytes | None  # the array of the tensor's data; None where bytes follow the document
    id: bytes | None  # what stands between the quotes of the request's id
    gaps: tuple[str, ...]  # where they stood between the parts of the key, in order

    def with_others(self, numbers: bytes, request_id: bytes) -> bytes:
        """Return the document with other numbers and another id, where it has them."""
        others = {"id": request_id, "numbers": numbers}
        _, start, *ends = self.key
        return start + b"".join(others[gap] + end for gap, end in zip(self.gaps, ends, strict=True))


class _Template(NamedTuple):
    """What stays the same of an answer."""

    before_id: bytes
    after_id: bytes
    outputs: tuple[tuple[str, bytes], ...]  # in JSON: of each its name, and what follows its data
    raw_outputs: tuple[str, ...]  # the names of those in bytes
    header_lines: bytes  # but the one that says where the document ends
    state_count: int
    may_refuse: bool  # a state outside what training saw, which is for the whole way to decide

    def put_together(self, request_id: bytes | None, inference: Inference) -> Answer:
        """Return an answer."""
        parts = [self.before_id, request_id or b"", self.after_id]
        for name, end in self.outputs:
            values = _flat(inference.q_values) if name == "q_values" else list(inference.actions)
            parts += (to_json(values), end)
        document = b"".join(parts)
        if not self.raw_outputs:
            return document, JSON, self.header_lines, inference
        raw = [
            q_value_bytes(inference.q_values)
            if name == "q_values"
            else action_bytes(inference.actions)
            for name in self.raw_outputs
        ]
        lines = b"%b%b: %d\r\n" % (self.header_lines, RAW_HEADER_LENGTH, len(document))
        return b"".join((document, *raw)), BYTES, lines, inference


class KnownDocuments:
    """The requests that were answered before, of one policy.

    `strict`: states outside what training saw are refused, whatever a request asks for.
    """

    def __init__(self, *, strict: bool = False) -> None:
        self._strict = strict
        self._policy: Policy | None = None
        # None for a request that was looked at, and cannot be answered from here.
        self._templates: dict[Key, _Template | None] = {}

    def answer(self, policy: Policy, body: Body, header_length: bytes | None) -> Answer | None:
        """Return the answer to a request; None where it is not known.

        `header_length`: the header `Inference-Header-Content-Length`. What no good answer can be
        given for is left to who can say why.
        """
        if policy is not self._policy or (parts := _take_apart(body, header_length)) is None:
            return None
        template = self._templates.get(parts.key)
        if template is None:
            return None
        if parts.numbers is not None:
            inference = infer_numbers(policy, parts.numbers, template.state_count)
        else:
            size = STATE_BYTES * template.state_count
            # The document says how many bytes follow it.
            if len(body) - int(header_length or 0) != size:
                return None
            inference = infer_bytes(policy, body, size)
        if inference is None or (template.may_refuse and any(inference.out_of_range)):
            return None
        return template.put_together(parts.id, inference)

    def learn(
        self, policy: Policy, body: Body, header_length: bytes | None, answer: Answer
    ) -> None:
        """Keep in mind a request that was answered, if it is of the form that can be.

        What would be answered is compared with what was, before it is kept.
        """
        parts = _take_apart(body, header_length)
        if parts is None or (policy is self._policy and parts.key in self._templates):
            return
        document = body if header_length is None else body[: int(header_length)]
        request, template = validate(document), None
        if _is_of_form(parts, request):
            template = _template_of(parts, request, answer, strict=self._strict)
        if template is not None and template.put_together(parts.id, answer[3]) != answer:
            template = None

        if policy is not self._policy or len(self._templates) >= MOST:
            self._policy, self._templates = policy, {}
        self._templates[parts.key] = template


def _take_apart(body: Body, header_length: bytes | None) -> _Parts | None:
    """Return the parts of a request; None where it is of no form that can be known."""
    if header_length is not None:
        return _take_apart_before_bytes(body, header_length)
    data = body.find(_DATA)
    start = body.find(b"[", data)
    end = body.find(b"]", start) + 1
    if data < 0 or start < 0 or not end or len(body) - (end - start) > LONGEST:
        return None
    if (place := _place_of_id(body)) is None:
        return None
    numbers = bytes(body[start:end])
    id_start, id_end = place
    if not id_start:
        key = b"numbers", bytes(body[:start]), bytes(body[end:])
        return _Parts(key, numbers, None, ("numbers",))
    request_id = bytes(body[id_start:id_end])
    if id_end < start:
        rest = bytes(body[:id_start]), bytes(body[id_end:start]), bytes(body[end:])
        return _Parts((b"numbers", *rest), numbers, request_id, ("id", "numbers"))
    if id_start > end:
        rest = bytes(body[:start]), bytes(body[end:id_start]), bytes(body[id_end:])
        return _Parts((b"numbers", *rest), numbers, request_id, ("numbers", "id"))
    return None


def _take_apart_before_bytes(body: Body, header_length: bytes) -> _Parts | None:
    if not header_length.isdigit() or len(header_length) > LONGEST_LENGTH:
        return None
    if int(header_length) > LONGEST:
        return None
    document = body[: int(header_length)]
    if (place := _place_of_id(document)) is None:
        return None
    start, end = place
    if not start:
        return _Parts((b"bytes", bytes(document)), None, None, ())
    key = b"bytes", bytes(document[:start]), bytes(document[end:])
    return _Parts(key, None, bytes(document[start:end]), ("id",))


def _place_of_id(document: Body) -> tuple[int, int] | None:
    """Return where the id's text begins and ends; zeros where there is none.

    None for one that would not stand in the answer as it stands in the request.
    """
    at = document.find(_ID)
    if at < 0:
        return 0, 0
    start = document.find(b'"', at + len(_ID)) + 1
    end = document.find(b'"', start)
    if not start or end < 0:
        return None
    text = document[start:end]
    if b"\\" in text or not text.isascii() or not text.decode().isprintable():
        return None
    return start, end


def _is_of_form(parts: _Parts, request: InferRequest) -> bool:
    """Return whether the numbers of a good request are its tensor's, and its id is its id.

    So they are if the same request with others is the same but for these.
    """
    tensor, other_numbers, other_id = request.inputs[0], [0.5, -1.5], "another"
    # Whole numbers have rules of their own, and bytes are read as 32-bit floats.
    if tensor.datatype.startswith("INT") or (parts.numbers is None and tensor.datatype != "FP32"):
        return False
    try:
        other = validate(parts.with_others(to_json(other_numbers), other_id.encode()))
    except ValidationError:
        return False
    changes: dict[str, object] = {}
    if parts.numbers is not None:
        changes["inputs"] = [tensor.model_copy(update={"data": other_numbers})]
    if parts.id is not None:
        changes["id"] = other_id
    is_same_id = parts.id is None or parts.id.decode() == request.id
    has_all = parts.numbers is not None or tensor.data is None
    return is_same_id and has_all and bool(other == request.model_copy(update=changes))


def _template_of(
    parts: _Parts, request: InferRequest, answer: Answer, *, strict: bool
) -> _Template | None:
    """Return what stays the same of an answer that was given; None where it has another form."""
    content, media_type, lines, inference = answer
    document, header_lines = content, lines
    if media_type == BYTES:
        header_lines, _, length = lines.rpartition(RAW_HEADER_LENGTH + b": ")
        document = content[: int(length)]
    is_raw: list[bool] = ["data" not in output for output in from_json(document)["outputs"]]
    names = [output.name for output in request.outputs] or list(OUTPUTS)
    in_json = [name for name, raw in zip(names, is_raw, strict=True) if not raw]

    head, *outputs = document.split(_OUTPUT_DATA)
    if len(outputs) != len(in_json):
        return None
    ends = [output.partition(b"]")[2] + _OUTPUT_DATA for output in outputs]
    if ends:
        ends[-1] = ends[-1].removesuffix(_OUTPUT_DATA)
        head += _OUTPUT_DATA
    before, mark, after = head.partition(_OUTPUT_ID) if parts.id is not None else (head, b"", b"")
    return _Template(
        before + mark,
        after.removeprefix(parts.id or b""),
        tuple(zip(in_json, ends, strict=True)),
        tuple(name for name, raw in zip(names, is_raw, strict=True) if raw),
        header_lines,
        len(inference.actions),
        may_refuse=strict or STRICT in request.parameters,
    )


def _flat(q_values: Sequence[list[float]]) -> list[float]:
    if isinstance(q_values, Rows):
        values: list[float] = q_values.array.reshape(-1).tolist()
        return values
    return [value for row in q_values for value in row]
