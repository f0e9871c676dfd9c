"""Answers: a request's body and headers in, the response of a door out. The same for every way that a request may come in."""

import time
from dataclasses import dataclass
from http import HTTPStatus

import numpy as np
from pydantic import ValidationError

from service.policy import Decisions, Float32Array, Policy, QValuesNotFiniteError
from service.problems import ProblemError, invalid_body
from service.schemas import ActRequest, ActResponse, BatchRequest, BatchResponse, FieldError


@dataclass(frozen=True)
class Answer:
    """A good response: its JSON and the headers that belong to it."""

    body: bytes
    headers: dict[str, str]


def act(policy: Policy, body: bytes, if_match: str | None) -> Answer:
    """Answer one state. Raises `ProblemError`."""
    check_digest(policy, if_match)
    try:
        request = ActRequest.model_validate_json(body)
    except ValidationError as error:
        raise invalid_body(error) from error
    decisions, seconds = _decide(policy, np.array([request.state], np.float32), "#/state")
    response = ActResponse(
        action=decisions.actions[0],
        action_name=policy.bundle.manifest.actions[decisions.actions[0]],
        q_values=decisions.q_values[0],
        out_of_range=decisions.out_of_range[0],
        model=policy.bundle.manifest.name,
        digest=policy.bundle.digest,
        seq=request.seq,
    )
    return Answer(response.model_dump_json().encode(), _headers(policy, seconds))


def act_batch(policy: Policy, body: bytes, if_match: str | None, *, max_batch: int) -> Answer:
    """Answer several states. Raises `ProblemError`."""
    check_digest(policy, if_match)
    try:
        request = BatchRequest.model_validate_json(body)
    except ValidationError as error:
        raise invalid_body(error) from error
    if len(request.states) > max_batch:
        wrong = FieldError(pointer="#/states", detail=f"holds {len(request.states)} states; at most {max_batch} are answered at once")
        raise ProblemError(HTTPStatus(413), "batch-too-large", f"{wrong.pointer}: {wrong.detail}", [wrong])
    decisions, seconds = _decide(policy, np.array(request.states, np.float32), "#/states")
    names = policy.bundle.manifest.actions
    response = BatchResponse(
        actions=decisions.actions,
        action_names=[names[action] for action in decisions.actions],
        q_values=decisions.q_values,
        out_of_range=decisions.out_of_range,
        model=policy.bundle.manifest.name,
        digest=policy.bundle.digest,
        seq=request.seq,
    )
    return Answer(response.model_dump_json().encode(), _headers(policy, seconds))


def etag(policy: Policy) -> str:
    """Return the entity tag that names the bundle: its digest in quotes."""
    return f'"{policy.bundle.digest}"'


def check_digest(policy: Policy, if_match: str | None) -> None:
    """Refuse a request that was meant for another bundle (RFC 9110, section 13.1.1). Raises `ProblemError` with status 412."""
    if if_match is None or if_match.strip() == "*" or etag(policy) in (tag.strip() for tag in if_match.split(",")):
        return
    raise ProblemError(
        HTTPStatus.PRECONDITION_FAILED,
        "other-bundle",
        f"If-Match asks for {if_match[:200]}, but the bundle served is {etag(policy)}; no action was chosen",
        headers={"ETag": etag(policy)},
    )


def _headers(policy: Policy, seconds: float) -> dict[str, str]:
    return {"ETag": etag(policy), "Server-Timing": f"inference;dur={seconds * 1e3:.3f}"}  # in milliseconds, as its specification says


def _decide(policy: Policy, states: Float32Array, pointer: str) -> tuple[Decisions, float]:
    started = time.perf_counter()
    try:
        return policy.decide(states), time.perf_counter() - started
    except QValuesNotFiniteError as error:
        where = pointer if len(states) == 1 and pointer == "#/state" else f"{pointer}/{error.row}"
        if not error.out_of_range:
            # The state is one that training saw, so the fault is the service's own.
            raise ProblemError(
                HTTPStatus.INTERNAL_SERVER_ERROR,
                "q-values-not-finite",
                f"{where}: the policy has no finite Q-values here; no action was chosen",
            ) from error
        wrong = FieldError(
            pointer=where, detail=f"the policy has no finite Q-values this far outside its training range: {', '.join(error.out_of_range)}"
        )
        raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, "state-too-extreme", f"{wrong.pointer}: {wrong.detail}", [wrong]) from error
