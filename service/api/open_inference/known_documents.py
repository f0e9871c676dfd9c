"""Answers to inference requests in JSON that are known but for their numbers and their id.

A control loop sends the same document again and again, with other numbers in its tensor. The first
one is validated and answered as any other; from then on the rest of the document says what is asked
for, and the answer is put together as bytes. To validate and to render would cost more than the
inference.
"""

from array import array
from collections.abc import Sequence
from math import isfinite
from time import perf_counter
from typing import NamedTuple

import numpy as np
from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json, to_json

from service.api.open_inference.protocol import OUTPUTS
from service.api.open_inference.schemas import InferRequest
from service.api.ranges import STRICT
from service.inference.backends import STATE_SIZE
from service.inference.errors import QValuesNotFiniteError
from service.inference.policy import Inference, Policy, Rows
from service.types import Body

LONGEST = 1_000  # bytes of a request that is kept in mind, without its numbers
MOST = 64  # requests that are; then all are forgotten
# These bytes never stand within a string of JSON, where a quote has a backslash before it.
_DATA, _ID, _OUTPUT_DATA, _OUTPUT_ID = b'"data"', b'"id"', b'"data":', b'"id":"'

_validate = TypeAdapter(InferRequest).validator.validate_json

# What a request is known by: all that stands before, between and after its numbers and its id.
Key = tuple[bytes, ...]


class _Parts(NamedTuple):
    """A request, taken apart."""

    key: Key
    numbers: bytes  # the array of the tensor's data
    id: bytes | None  # what stands between the quotes of the request's id
    is_id_first: bool

    def with_others(self, numbers: bytes, request_id: bytes) -> bytes:
        """Return the request with other numbers and, if it has an id, another one."""
        if self.id is None:
            return numbers.join(self.key)
        start, middle, end = self.key
        first, second = (request_id, numbers) if self.is_id_first else (numbers, request_id)
        return b"".join((start, first, middle, second, end))


class _Answer(NamedTuple):
    """What stays the same of an answer."""

    before_id: bytes
    after_id: bytes
    outputs: tuple[tuple[str, bytes], ...]  # of each its name, and what follows its data
    header_lines: bytes
    state_count: int
    may_refuse: bool  # a state outside what training saw, which is for the whole way to decide

    def put_together(self, request_id: bytes | None, inference: Inference) -> bytes:
        """Return an answer's content."""
        parts = [self.before_id, request_id or b"", self.after_id]
        for name, end in self.outputs:
            values = _flat(inference.q_values) if name == "q_values" else list(inference.actions)
            parts += (to_json(values), end)
        return b"".join(parts)


class KnownDocuments:
    """The requests that were answered before, of one policy.

    `strict`: states outside what training saw are refused, whatever a request asks for.
    """

    def __init__(self, *, strict: bool = False) -> None:
        self._strict = strict
        self._policy: Policy | None = None
        # None for a request that was looked at, and cannot be answered from here.
        self._answers: dict[Key, _Answer | None] = {}

    def answer(self, policy: Policy, body: Body) -> tuple[bytes, bytes, Inference] | None:
        """Return an answer's content, its header lines and the inference; None where not known.

        What no good answer can be given for is left to who can say why.
        """
        if policy is not self._policy or (parts := _take_apart(body)) is None:
            return None
        answer = self._answers.get(parts.key)
        if answer is None:
            return None
        inference = _infer(policy, parts.numbers, answer.state_count)
        if inference is None or (answer.may_refuse and any(inference.out_of_range)):
            return None
        return answer.put_together(parts.id, inference), answer.header_lines, inference

    def learn(
        self, policy: Policy, body: Body, content: bytes, header_lines: bytes, inference: Inference
    ) -> None:
        """Keep in mind a request that was answered by JSON alone, if it is of the form that can be.

        What would be answered is compared with what was, before it is kept.
        """
        parts = _take_apart(body)
        if parts is None or sum(map(len, parts.key)) > LONGEST:
            return
        if policy is self._policy and parts.key in self._answers:
            return
        answer = None
        request = _validate(body)
        if _is_of_form(parts, request):
            answer = _answer_like(parts, request, content, header_lines, inference)
            if answer is not None and self._strict:
                answer = answer._replace(may_refuse=True)
        if answer is not None and answer.put_together(parts.id, inference) != content:
            answer = None

        if policy is not self._policy or len(self._answers) >= MOST:
            self._policy, self._answers = policy, {}
        self._answers[parts.key] = answer


def _take_apart(body: Body) -> _Parts | None:
    """Return the parts of a request; None where it has no flat array of data."""
    data = body.find(_DATA)
    start = body.find(b"[", data)
    end = body.find(b"]", start) + 1
    if data < 0 or start < 0 or not end:
        return None
    numbers = bytes(body[start:end])

    at = body.find(_ID)
    if at < 0:
        return _Parts((bytes(body[:start]), bytes(body[end:])), numbers, None, is_id_first=False)
    id_start = body.find(b'"', at + len(_ID)) + 1
    id_end = body.find(b'"', id_start)
    if not id_start or id_end < 0:
        return None
    request_id = bytes(body[id_start:id_end])
    # One that stands in the answer as it stands in the request.
    if b"\\" in request_id or not request_id.isascii() or not request_id.decode().isprintable():
        return None
    if id_end < start:
        key = bytes(body[:id_start]), bytes(body[id_end:start]), bytes(body[end:])
    elif id_start > end:
        key = bytes(body[:start]), bytes(body[end:id_start]), bytes(body[id_end:])
    else:
        return None
    return _Parts(key, numbers, request_id, is_id_first=id_end < start)


def _infer(policy: Policy, document: bytes, count: int) -> Inference | None:
    """Answer the states whose numbers a JSON array holds; None where something is wrong."""
    if document.count(b",") != count * STATE_SIZE - 1:
        return None
    try:
        numbers = from_json(document)
        if not {float, int}.issuperset(map(type, numbers)):
            return None
        rounded = array("f", numbers)  # what is too large for it becomes infinite
    except (ValueError, OverflowError):
        return None
    if len(rounded) != count * STATE_SIZE or not isfinite(sum(rounded)):
        return None

    try:
        if count == 1:
            x, v, θ, ω = rounded
            started = perf_counter()
            action, q_values, out_of_range = policy.decide_one((x, v, θ, ω))
            seconds = perf_counter() - started
            rows = [(x, v, θ, ω)]
            return Inference(policy, rows, [q_values], [action], [out_of_range], seconds)
        states = np.frombuffer(rounded, np.float32).reshape(count, STATE_SIZE)
        started = perf_counter()
        actions, all_q_values, all_out_of_range = policy.decide(states)
        seconds = perf_counter() - started
    except QValuesNotFiniteError:
        return None
    return Inference(policy, Rows(states), all_q_values, actions, all_out_of_range, seconds)


def _is_of_form(parts: _Parts, request: InferRequest) -> bool:
    """Return whether the numbers of a good request are its tensor's, and its id is its id.

    So they are if the same request with others is the same but for these.
    """
    if request.inputs[0].datatype.startswith("INT"):  # whose numbers must be whole
        return False
    other_numbers, other_id = [0.5, -1.5], "another"
    try:
        other = _validate(parts.with_others(to_json(other_numbers), other_id.encode()))
    except ValidationError:
        return False
    tensor = request.inputs[0].model_copy(update={"data": other_numbers})
    expected = request.model_copy(
        update={"inputs": [tensor], "id": None if parts.id is None else other_id}
    )
    is_same_id = parts.id is None or parts.id.decode() == request.id
    return is_same_id and bool(other == expected)


def _answer_like(
    parts: _Parts,
    request: InferRequest,
    content: bytes,
    header_lines: bytes,
    inference: Inference,
) -> _Answer | None:
    """Return what stays the same of an answer that was given; None where it has another form."""
    names = [output.name for output in request.outputs] or list(OUTPUTS)
    head, *outputs = content.split(_OUTPUT_DATA)
    if len(outputs) != len(names):
        return None
    ends = [output.partition(b"]")[2] + _OUTPUT_DATA for output in outputs]
    ends[-1] = ends[-1].removesuffix(_OUTPUT_DATA)
    before, mark, after = (head + _OUTPUT_DATA).partition(_OUTPUT_ID)
    return _Answer(
        before + mark,
        after.removeprefix(parts.id or b""),
        tuple(zip(names, ends, strict=True)),
        header_lines,
        len(inference.actions),
        may_refuse=STRICT in request.parameters,
    )


def _flat(q_values: Sequence[list[float]]) -> list[float]:
    if isinstance(q_values, Rows):
        values: list[float] = q_values.array.reshape(-1).tolist()
        return values
    return [value for row in q_values for value in row]
