"""What `POST /act` and `POST /act/batch` answer, for every way that a request may come in."""

import re
from collections.abc import Sequence
from functools import lru_cache
from http import HTTPStatus
from itertools import islice
from time import perf_counter

import numpy as np
from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

from service.api.problems import MAX_ERRORS_SHOWN, ProblemError, invalid_body, unknown_field
from service.api.ranges import values_out_of_range
from service.api.schemas import ActRequest, BatchRequest, BatchResponse, FieldError
from service.inference.errors import QValuesNotFiniteError
from service.inference.policy import Decisions, Inference, Policy, State
from service.types import Body, RawHeader

# The schemas' own validators, which cost half of what `model_validate_json` does.
_validate_act = TypeAdapter(ActRequest).validator.validate_json
_validate_batch = TypeAdapter(BatchRequest).validator.validate_json
_serialize_batch = TypeAdapter(BatchResponse).serializer.to_json

MANY_QUOTES = 200  # more than any batch has that may be answered
_STRING = re.compile(rb'"((?:[^"\\]|\\.)*)"')

# A good response: its JSON, the headers ETag and Server-Timing, and the inference behind it.
Answer = tuple[bytes, tuple[RawHeader, RawHeader], Inference]


class ResponseTemplate:
    """What all responses by one policy have in common, as the bytes that are sent.

    A response of `POST /act` is put together from its template, which is faster than to serialize
    an `ActResponse`; a test holds the two to the same bytes.
    """

    def __init__(self, policy: Policy) -> None:
        manifest, digest = policy.bundle.manifest, policy.bundle.digest
        self.etag: RawHeader = (b"etag", f'"{digest}"'.encode())
        # What a response begins with, by action, and what follows its `out_of_range`.
        self.beginnings = [
            b'{"action":%d,"action_name":%s,"q_values":' % (action, to_json(name))
            for action, name in enumerate(manifest.actions)
        ]
        self.bundle = b',"model":%s,"digest":%s' % (to_json(manifest.name), to_json(digest))


# Two: the policy served, and the one before it while they change places.
_template_of = lru_cache(maxsize=2)(ResponseTemplate)


def act(policy: Policy, body: Body, if_match: str | None, *, strict: bool = False) -> Answer:
    """Answer one state. Raises `ProblemError`.

    `strict` refuses a state outside what training saw, whatever the request asks for.
    """
    if if_match is not None:
        check_digest(policy, if_match)
    try:
        request = _validate_act(body)
    except ValidationError as error:
        raise invalid_body(error, body) from error

    state, seq = request.state, request.seq
    started = perf_counter()
    try:
        action, q_values, out_of_range = policy.decide_one(state)
    except QValuesNotFiniteError as error:
        raise _not_finite(error, "#/state") from error
    seconds = perf_counter() - started
    if out_of_range and (strict or request.strict):
        raise _out_of_range(policy, [state], [out_of_range], "#/state")

    template = _template_of(policy)
    content = (
        template.beginnings[action]
        + to_json(q_values)
        + b',"out_of_range":'
        + (to_json(out_of_range) if out_of_range else b"[]")
        + template.bundle
    )
    content += b"}" if seq is None else b',"seq":%d}' % seq
    inference = Inference(policy, (state,), (q_values,), (action,), (out_of_range,), seconds, seq)
    return content, (template.etag, _server_timing(seconds)), inference


def act_batch(
    policy: Policy, body: Body, if_match: str | None, *, max_batch: int, strict: bool = False
) -> Answer:
    """Answer several states, at most `max_batch`. Raises `ProblemError`.

    `strict` refuses all where one is outside what training saw, whatever the request asks for.
    """
    check_digest(policy, if_match)
    _check_size(body, max_batch)
    try:
        request = _validate_batch(body)
    except ValidationError as error:
        raise invalid_body(error, body) from error
    if len(request.states) > max_batch:
        raise _batch_too_large(len(request.states), max_batch)

    states = np.array(request.states, np.float32)
    started = perf_counter()
    try:
        decisions = policy.decide(states)
    except QValuesNotFiniteError as error:
        raise _not_finite(error, f"#/states/{error.row}") from error
    seconds = perf_counter() - started
    if (strict or request.strict) and any(decisions.out_of_range):
        raise _out_of_range(policy, request.states, decisions.out_of_range, "#/states/{row}")

    inference = Inference(
        policy,
        request.states,
        decisions.q_values,
        decisions.actions,
        decisions.out_of_range,
        seconds,
        request.seq,
    )
    content = _batch_content(policy, decisions, request.seq)
    return content, (_template_of(policy).etag, _server_timing(seconds)), inference


def _check_size(body: Body, max_batch: int) -> None:
    """Refuse a body that holds more than any batch that is answered, before it is validated.

    The validator would describe each field that it does not know: 230,000 of them fit into a body,
    and take most of a second. A batch has at most four commas a state, and no strings but the names
    of its fields. One of too many states is validated, which ends at the first bad one.
    """
    has_many_strings = body.count(b'"') > MANY_QUOTES
    if not has_many_strings and body.count(b",") <= 4 * max_batch:
        return

    for match in islice(_STRING.finditer(body), MANY_QUOTES):
        name = match[1].decode("utf-8", "replace")
        if name not in BatchRequest.model_fields:
            raise unknown_field(name, BatchRequest.model_fields)
    if has_many_strings:
        raise _wrong_batch("has the same field hundreds of times")
    if body.count(b"[") <= max_batch + 1:
        raise _wrong_batch(f"holds more values than {max_batch} states have")


def etag(policy: Policy) -> str:
    """Return the entity tag that names the bundle: its digest in quotes."""
    return f'"{policy.bundle.digest}"'


def check_digest(policy: Policy, if_match: str | None) -> None:
    """Refuse a request that was meant for another bundle (RFC 9110, section 13.1.1).

    Raises `ProblemError` with status 412.
    """
    if if_match is None or if_match.strip() == "*":
        return
    if etag(policy) in (tag.strip() for tag in if_match.split(",")):
        return

    is_without_quotes = if_match.strip() == policy.bundle.digest
    hint = "; put the digest into double quotes" if is_without_quotes else ""
    raise ProblemError(
        HTTPStatus.PRECONDITION_FAILED,
        "other-bundle",
        f"If-Match asks for {if_match[:200]}, but the bundle served is {etag(policy)}; "
        f"no action was chosen{hint}",
        headers=[(b"etag", etag(policy).encode())],
    )


def _batch_content(policy: Policy, decisions: Decisions, seq: int | None) -> bytes:
    manifest = policy.bundle.manifest
    response = BatchResponse.model_construct(
        actions=list(decisions.actions),
        action_names=[manifest.actions[action] for action in decisions.actions],
        q_values=list(decisions.q_values),
        out_of_range=list(decisions.out_of_range),
        model=manifest.name,
        digest=policy.bundle.digest,
        seq=seq,
    )
    return _serialize_batch(response)


def _server_timing(seconds: float) -> RawHeader:
    milliseconds = seconds * 1e3  # the unit of the header's specification
    return b"server-timing", b"inference;dur=%.3f" % milliseconds


def _batch_too_large(size: int, max_batch: int) -> ProblemError:
    error = FieldError(
        pointer="#/states",
        detail=f"holds {size} states; at most {max_batch} are answered at once",
    )
    detail = f"{error.pointer}: {error.detail}"
    return ProblemError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "batch-too-large", detail, [error])


def _wrong_batch(detail: str) -> ProblemError:
    error = FieldError(pointer="#", detail=detail)
    text = f"{error.pointer}: {error.detail}"
    return ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid-request", text, [error])


def _out_of_range(
    policy: Policy,
    states: Sequence[State],
    out_of_range: Sequence[list[str]],
    pointer: str,
) -> ProblemError:
    """Return the problem of states outside what training saw; `pointer` is a state's by its row."""
    values = islice(values_out_of_range(policy, states, out_of_range), MAX_ERRORS_SHOWN)
    errors = [
        FieldError(pointer=f"{pointer.format(row=row)}/{place}", detail=detail)
        for row, place, detail in values
    ]
    count = sum(map(len, out_of_range))
    more = f" (and {count - 1} more)" if count > 1 else ""
    return ProblemError(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "out-of-range",
        f"{errors[0].pointer}: {errors[0].detail}{more}; no action was chosen",
        errors,
    )


def _not_finite(error: QValuesNotFiniteError, pointer: str) -> ProblemError:
    """Return the problem of Q-values that are not finite.

    For a state as training saw them, the fault is the service's own.
    """
    if not error.out_of_range:
        detail = f"{pointer}: the policy has no finite Q-values here; no action was chosen"
        return ProblemError(HTTPStatus.INTERNAL_SERVER_ERROR, "q-values-not-finite", detail)

    names = ", ".join(error.out_of_range)
    field_error = FieldError(
        pointer=pointer,
        detail=f"the policy has no finite Q-values this far outside its training range: {names}",
    )
    return ProblemError(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "state-too-extreme",
        f"{field_error.pointer}: {field_error.detail}",
        [field_error],
    )
