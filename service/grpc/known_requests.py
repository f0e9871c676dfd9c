"""Answers to gRPC requests that are known but for their state and their id.

A control loop sends the same message again and again, with another state in its last 16 bytes. The
first one is parsed, checked and answered by the servicer; from then on the bytes before the state
say what is asked for, and the answer is put together as bytes. Parsing and building the messages
would cost more than the inference.
"""

from math import isfinite
from struct import Struct
from time import perf_counter
from typing import NamedTuple

from service.api.ranges import STRICT
from service.grpc import inference_pb2 as pb
from service.inference.errors import QValuesNotFiniteError
from service.inference.policy import Inference, Policy, State
from service.inference.protobuf import BYTES, WireError, fields

LONGEST = 1_000  # bytes of a request that is kept in mind
MOST = 64  # requests that are; then all are forgotten
ID_FIELD, ID_TAG = 3, 0x1A  # the field `id`, of requests and responses alike
NAME_TAGS = (0x0A, 0x12)  # the fields before it, the model's name and its version
STATE_FIELD, STATE_BYTES = 7, 16  # of the request: raw_input_contents, four 32-bit floats
ACTIONS = 2  # of whose Q-values an answer is put together
RAW_TAG = b"\x32\x08"  # of the response: raw_output_contents, each of eight bytes here
_STATE = Struct("<4f")
_PACKED = {"q_values": Struct("<2f").pack, "action": Struct("<q").pack}


class _Answer(NamedTuple):
    """The parts of an answer that stay the same; the id stands between them."""

    before_id: bytes
    after_id: bytes
    names: tuple[str, ...]  # of the outputs
    may_refuse: bool  # a state outside what training saw, which is the servicer's to decide

    def put_together(self, request_id: bytes, action: int, q_values: list[float]) -> bytes:
        """Return an answer's bytes."""
        contents = [
            RAW_TAG
            + (_PACKED["action"](action) if name == "action" else _PACKED["q_values"](*q_values))
            for name in self.names
        ]
        named = b"%c%c%b" % (ID_TAG, len(request_id), request_id) if request_id else b""
        return b"".join((self.before_id, named, self.after_id, *contents))


class KnownRequests:
    """The requests that were answered before, of one policy.

    `strict`: states outside what training saw are refused, whatever a request asks for.
    """

    def __init__(self, *, strict: bool = False) -> None:
        self._strict = strict
        self._policy: Policy | None = None
        self._answers: dict[bytes, _Answer] = {}

    def answer(self, policy: Policy, body: bytes) -> tuple[bytes, bytes, Inference] | None:
        """Return the answer to a request, its id and the inference; None where it is not known.

        A state that no answer can be given for is left to who can say why.
        """
        if policy is not self._policy or len(body) > LONGEST:
            return None
        start, end = _place_of_id(body)
        answer = self._answers.get(_without_id_and_state(body, start, end))
        if answer is None:
            return None
        state: State = _STATE.unpack_from(body, len(body) - STATE_BYTES)
        if not isfinite(sum(state)):
            return None

        started = perf_counter()
        try:
            action, q_values, out_of_range = policy.decide_one(state)
        except QValuesNotFiniteError:
            return None
        if out_of_range and answer.may_refuse:
            return None
        inference = Inference(
            policy, [state], [q_values], [action], [out_of_range], perf_counter() - started
        )
        request_id = body[start + 2 : end]
        return answer.put_together(request_id, action, q_values), request_id, inference

    def learn(
        self,
        policy: Policy,
        body: bytes,
        request: pb.ModelInferRequest,
        response: pb.ModelInferResponse,
        inference: Inference,
    ) -> None:
        """Keep in mind a request that was answered, if it is of the form that can be."""
        if len(body) > LONGEST:
            return
        start, end = _place_of_id(body)
        key = _without_id_and_state(body, start, end)
        if policy is self._policy and key in self._answers:  # of a call with a condition
            return
        if not _is_of_form(body, request) or body[start + 2 : end] != request.id.encode():
            return
        [action], [q_values] = inference.actions, inference.q_values
        if len(q_values) != ACTIONS:
            return

        head = pb.ModelInferResponse(
            model_name=response.model_name, model_version=response.model_version
        )
        rest = pb.ModelInferResponse(parameters=response.parameters, outputs=response.outputs)
        answer = _Answer(
            head.SerializeToString(),
            rest.SerializeToString(),
            tuple(output.name for output in response.outputs),
            may_refuse=self._strict or STRICT in request.parameters,
        )
        put_together = answer.put_together(request.id.encode(), action, q_values)
        if put_together != response.SerializeToString():
            return

        if policy is not self._policy or len(self._answers) >= MOST:
            self._policy, self._answers = policy, {}
        self._answers[key] = answer


def _without_id_and_state(body: bytes, start: int, end: int) -> bytes:
    """Return what a request is known by; its id's field lies between two positions."""
    return body[:start] + body[end:-STATE_BYTES]


def _is_of_form(body: bytes, request: pb.ModelInferRequest) -> bool:
    """Return whether a request that was answered has one state, raw, at its very end.

    What comes before it then says all but the state: a field's place follows from the fields before
    it. Of two ids the last one counts, so there must not be two.
    """
    if not request.id.isascii():
        return False
    try:
        found = list(fields(body, 0, len(body)))
    except WireError:  # it has fields that the parser skipped
        return False
    numbers = [number for number, _, _, _ in found]
    _, wire_type, begin, end = found[-1]
    return (
        numbers[-1] == STATE_FIELD
        and numbers.count(STATE_FIELD) == 1
        and numbers.count(ID_FIELD) <= 1
        and (wire_type, end - begin, end) == (BYTES, STATE_BYTES, len(body))
        and list(request.inputs[0].shape) == [1, 4]
        and request.inputs[0].datatype == "FP32"
    )


def _place_of_id(body: bytes) -> tuple[int, int]:
    """Return where the id's field begins and ends; no place where it is not the next after names.

    Lengths of 128 and more take two bytes; a request with such a name or id is never known.
    """
    position, size = 0, len(body)
    while position + 1 < size and body[position] in NAME_TAGS and body[position + 1] < 0x80:
        position += 2 + body[position + 1]
    if position + 1 < size and body[position] == ID_TAG and body[position + 1] < 0x80:
        end = position + 2 + body[position + 1]
        if end <= size - STATE_BYTES and body[position + 2 : end].isascii():
            return position, end
    return position, position
