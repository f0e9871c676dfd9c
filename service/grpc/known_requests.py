"""Answers to gRPC requests that are known but for their states and their id.

A control loop sends the same message again and again, with other states in its last bytes. The
first one is parsed, checked and answered by the servicer; from then on the bytes before the states
say what is asked for, and the answer is put together as bytes. Parsing and building the messages
would cost more than the inference.
"""

from collections.abc import Sequence
from typing import NamedTuple

from service.api.open_inference.known_states import (
    STATE_BYTES,
    action_bytes,
    infer_bytes,
    q_value_bytes,
)
from service.api.ranges import STRICT
from service.grpc import inference_pb2 as pb
from service.inference.policy import Inference, Policy
from service.inference.protobuf import BYTES, WireError, fields, varint

LONGEST = 1_000  # bytes of a request that is kept in mind, without its states
MOST = 64  # requests that are; then all are forgotten
ID_FIELD, ID_TAG = 3, 0x1A  # the field `id`, of requests and responses alike
NAME_TAGS = (0x0A, 0x12)  # the fields before it, the model's name and its version
STATES_FIELD = 7  # of the request: raw_input_contents
ACTIONS = 2  # of whose Q-values an answer is put together
OUTPUT_TAG, OUTPUT_BYTES = 0x32, 8  # of the response: raw_output_contents, so many for each state


class _Answer(NamedTuple):
    """The parts of an answer that stay the same; the id stands between them."""

    before_id: bytes
    after_id: bytes
    names: tuple[str, ...]  # of the outputs
    output_head: bytes  # that comes before the bytes of each output
    state_size: int  # bytes of the states that are answered
    may_refuse: bool  # a state outside what training saw, which is the servicer's to decide

    def put_together(
        self, request_id: bytes, q_values: Sequence[list[float]], actions: Sequence[int]
    ) -> bytes:
        """Return an answer's bytes."""
        contents = [
            self.output_head
            + (action_bytes(actions) if name == "action" else q_value_bytes(q_values))
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
        # The bytes that states take in requests of a length, which is counted without the id.
        self._state_sizes: dict[int, int] = {}

    def answer(self, policy: Policy, body: bytes) -> tuple[bytes, bytes, Inference] | None:
        """Return the answer to a request, its id and the inference; None where it is not known.

        States that no answer can be given for are left to who can say why.
        """
        if policy is not self._policy:
            return None
        start, end = _place_of_id(body)
        size = self._state_sizes.get(len(body) - end + start)
        if size is None:
            return None
        answer = self._answers.get(_without_id_and_states(body, start, end, size))
        if answer is None or answer.state_size != size:  # a part of a longer request
            return None

        inference = infer_bytes(policy, body, size)
        if inference is None or (answer.may_refuse and any(inference.out_of_range)):
            return None
        request_id = body[start + 2 : end]
        content = answer.put_together(request_id, inference.q_values, inference.actions)
        return content, request_id, inference

    def learn(
        self,
        policy: Policy,
        body: bytes,
        request: pb.ModelInferRequest,
        response: pb.ModelInferResponse,
        inference: Inference,
    ) -> None:
        """Keep in mind a request that was answered, if it is of the form that can be."""
        size = STATE_BYTES * len(inference.actions)
        if len(body) - size > LONGEST:
            return
        start, end = _place_of_id(body)
        key = _without_id_and_states(body, start, end, size)
        if policy is self._policy and key in self._answers:  # of a call with a condition
            return
        if not _is_of_form(body, request) or body[start + 2 : end] != request.id.encode():
            return
        if len(inference.q_values[0]) != ACTIONS:
            return

        head = pb.ModelInferResponse(
            model_name=response.model_name, model_version=response.model_version
        )
        rest = pb.ModelInferResponse(parameters=response.parameters, outputs=response.outputs)
        answer = _Answer(
            head.SerializeToString(),
            rest.SerializeToString(),
            tuple(output.name for output in response.outputs),
            bytes([OUTPUT_TAG]) + varint(OUTPUT_BYTES * len(inference.actions)),
            size,
            may_refuse=self._strict or STRICT in request.parameters,
        )
        put_together = answer.put_together(
            request.id.encode(), inference.q_values, inference.actions
        )
        if put_together != response.SerializeToString():
            return

        if policy is not self._policy or len(self._answers) >= MOST:
            self._policy, self._answers, self._state_sizes = policy, {}, {}
        self._answers[key] = answer
        self._state_sizes[len(body) - end + start] = size


def _without_id_and_states(body: bytes, start: int, end: int, size: int) -> bytes:
    """Return what a request is known by: all but its id's field, from `start` to `end`, and states.

    The states are the last `size` bytes.
    """
    return body[:start] + body[end:-size]


def _is_of_form(body: bytes, request: pb.ModelInferRequest) -> bool:
    """Return whether a request that was answered has its states, raw, at its very end.

    What comes before them then says all but the states: a field's place follows from the fields
    before it. Of two ids the last one counts, so there must not be two.
    """
    if not request.id.isascii():
        return False
    try:
        found = list(fields(body, 0, len(body)))
    except WireError:  # it has fields that the parser skipped
        return False
    numbers = [number for number, _, _, _ in found]
    _, wire_type, begin, end = found[-1]
    states = request.inputs[0]
    return (
        numbers[-1] == STATES_FIELD
        and numbers.count(STATES_FIELD) == 1
        and numbers.count(ID_FIELD) <= 1
        and (wire_type, end) == (BYTES, len(body))
        and end - begin == STATE_BYTES * states.shape[0]
        and states.datatype == "FP32"
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
