"""Answers: a request's body and headers in, the response of a door out. The same for every way that a request may come in."""

from functools import lru_cache
from http import HTTPStatus
from time import perf_counter

import numpy as np
from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

from service.api.problems import ProblemError, RawHeader, invalid_body
from service.api.schemas import ActRequest, BatchRequest, BatchResponse, FieldError
from service.inference.policy import Inference, Policy, QValuesNotFiniteError

# The schemas' own validators, which cost half of what `model_validate_json` does.
_read_act = TypeAdapter(ActRequest).validator.validate_json
_read_batch = TypeAdapter(BatchRequest).validator.validate_json
_write_batch = TypeAdapter(BatchResponse).serializer.to_json


# A good response: its JSON, the headers that belong to it, and the inference that it tells of.
Answer = tuple[bytes, tuple[RawHeader, RawHeader], Inference]


class _Letterhead:
    """What every answer of one bundle has in common, as the bytes that are sent."""

    def __init__(self, policy: Policy) -> None:
        manifest, digest = policy.bundle.manifest, policy.bundle.digest
        self.policy = policy
        self.etag = (b"etag", f'"{digest}"'.encode())
        # ActResponse is written from three parts; a test holds them to the schema.
        self.actions = [
            b'{"action":%d,"action_name":%s,"q_values":' % (action, to_json(name))
            for action, name in enumerate(manifest.actions)
        ]
        self.bundle = b',"model":%s,"digest":%s' % (to_json(manifest.name), to_json(digest))


_letterhead = lru_cache(maxsize=2)(
    _Letterhead
)  # the policy served, and the one before it while they change places


def act(policy: Policy, body: bytes, if_match: str | None) -> Answer:
    """Answer one state. Raises `ProblemError`."""
    if if_match is not None:
        check_digest(policy, if_match)
    try:
        request = _read_act(body)
    except ValidationError as error:
        raise invalid_body(error) from error
    started = perf_counter()
    try:
        action, q_values, out_of_range = policy.decide_one(request.state)
    except QValuesNotFiniteError as error:
        raise _not_finite(error, "#/state") from error
    seconds = perf_counter() - started
    letterhead = _letterhead(policy)
    named = to_json(out_of_range) if out_of_range else b"[]"
    content = (
        letterhead.actions[action]
        + to_json(q_values)
        + b',"out_of_range":'
        + named
        + letterhead.bundle
    )
    content += b"}" if request.seq is None else b',"seq":%d}' % request.seq
    inference = Inference(
        policy, (request.state,), (q_values,), (action,), (out_of_range,), seconds, request.seq
    )
    return content, (letterhead.etag, _timing(seconds)), inference


def act_batch(policy: Policy, body: bytes, if_match: str | None, *, max_batch: int) -> Answer:
    """Answer several states. Raises `ProblemError`."""
    check_digest(policy, if_match)
    try:
        request = _read_batch(body)
    except ValidationError as error:
        raise invalid_body(error) from error
    if len(request.states) > max_batch:
        wrong = FieldError(
            pointer="#/states",
            detail=f"holds {len(request.states)} states; at most {max_batch} are answered at once",
        )
        raise ProblemError(
            HTTPStatus(413), "batch-too-large", f"{wrong.pointer}: {wrong.detail}", [wrong]
        )
    states = np.array(request.states, np.float32)
    started = perf_counter()
    try:
        decisions = policy.decide(states)
    except QValuesNotFiniteError as error:
        raise _not_finite(error, f"#/states/{error.row}") from error
    seconds = perf_counter() - started
    names = policy.bundle.manifest.actions
    response = BatchResponse.model_construct(
        actions=decisions.actions,
        action_names=[names[action] for action in decisions.actions],
        q_values=decisions.q_values,
        out_of_range=decisions.out_of_range,
        model=policy.bundle.manifest.name,
        digest=policy.bundle.digest,
        seq=request.seq,
    )
    inference = Inference(
        policy,
        request.states,
        decisions.q_values,
        decisions.actions,
        decisions.out_of_range,
        seconds,
        request.seq,
    )
    return _write_batch(response), (_letterhead(policy).etag, _timing(seconds)), inference


def etag(policy: Policy) -> str:
    """Return the entity tag that names the bundle: its digest in quotes."""
    return f'"{policy.bundle.digest}"'


def check_digest(policy: Policy, if_match: str | None) -> None:
    """Refuse a request that was meant for another bundle (RFC 9110, section 13.1.1). Raises `ProblemError` with status 412."""
    if (
        if_match is None
        or if_match.strip() == "*"
        or etag(policy) in (tag.strip() for tag in if_match.split(","))
    ):
        return
    raise ProblemError(
        HTTPStatus.PRECONDITION_FAILED,
        "other-bundle",
        f"If-Match asks for {if_match[:200]}, but the bundle served is {etag(policy)}; no action was chosen",
        headers=[(b"etag", etag(policy).encode())],
    )


def _timing(seconds: float) -> RawHeader:
    return b"server-timing", b"inference;dur=%.3f" % (
        seconds * 1e3
    )  # in milliseconds, as its specification says


def _not_finite(error: QValuesNotFiniteError, pointer: str) -> ProblemError:
    if not error.out_of_range:
        # The state is one that training saw, so the fault is the service's own.
        detail = f"{pointer}: the policy has no finite Q-values here; no action was chosen"
        return ProblemError(HTTPStatus.INTERNAL_SERVER_ERROR, "q-values-not-finite", detail)
    names = ", ".join(error.out_of_range)
    wrong = FieldError(
        pointer=pointer,
        detail=f"the policy has no finite Q-values this far outside its training range: {names}",
    )
    return ProblemError(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "state-too-extreme",
        f"{wrong.pointer}: {wrong.detail}",
        [wrong],
    )
