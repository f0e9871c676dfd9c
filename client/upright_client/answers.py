"""What the service's answers mean: from a reply's bytes to decisions, or to the failure they tell.

Whatever bytes come, these functions return or raise `ProtocolError`, and nothing else.
"""

import json
from collections.abc import Sequence
from math import isfinite, nan
from typing import NamedTuple

from upright_client.decision import Failure, Model
from upright_client.errors import ProtocolError
from upright_client.protocols.protocol import Reply
from upright_client.text import printable

Document = dict[str, object]
OUT_OF_RANGE = "urn:upright:problem:out-of-range"

_decode = json.JSONDecoder().decode  # json.loads() looks for the encoding first, at every answer


class Choice(NamedTuple):
    """What the policy chose in one state."""

    action: int
    q_values: tuple[float, ...]
    out_of_range: tuple[str, ...]
    digest: str


def read_document(reply: Reply, seq: int | None) -> Document | None:
    """Return the JSON object of a reply, or `None` if it answers an earlier request.

    `seq` is what the reply must echo, if the request had one. Raises `ProtocolError`.
    """
    try:
        document = _decode(reply.body.decode())
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        if 300 <= reply.status < 400:
            raise ProtocolError(f"status {reply.status}: redirects are not followed")
        if reply.status < 400:
            raise ProtocolError("the answer is no JSON object")
        document = {}  # a proxy's own page
    if reply.status >= 400:
        document["status"] = reply.status
    if seq is None:
        return document

    echoed = document.get("seq")
    if echoed == seq and type(echoed) is int:
        return document
    if echoed is None and type(document.get("status")) is int:
        return document  # a problem has no seq where the service could not read one
    if type(echoed) is int and echoed < seq:
        return None
    raise ProtocolError("the answer does not say which state it answers")


def read_problem(document: Document) -> Failure | None:
    """Return what a problem means to the caller, or `None` where the document is an answer."""
    status = document.get("status")
    if type(status) is not int:
        return None
    if not 100 <= status <= 999:
        return Failure("invalid-response", "the answer has a status that HTTP does not have")

    detail = document.get("detail")
    text = (
        f"status {status}: {printable(detail)}" if isinstance(detail, str) else f"status {status}"
    )
    if status in (401, 403):
        return Failure("denied", text)
    if status == 412:
        return Failure("other-bundle", text)
    if status == 422 and document.get("type") == OUT_OF_RANGE:
        return Failure("out-of-range", text)
    return Failure("failed" if status >= 500 else "refused", text)


def read_choice(document: Document) -> Choice | Failure:
    """Return what the answer of `/act` says."""
    problem = read_problem(document)
    if problem is not None:
        return problem
    return _choice(
        document.get("action"),
        document.get("q_values"),
        document.get("out_of_range"),
        document.get("digest"),
    )


def read_choices(document: Document, count: int) -> Sequence[Choice] | Failure:
    """Return what the answer of `/act/batch` says about `count` states."""
    problem = read_problem(document)
    if problem is not None:
        return problem

    columns = [document.get(name) for name in ("actions", "q_values", "out_of_range")]
    lists = [column for column in columns if isinstance(column, list) and len(column) == count]
    if len(lists) != len(columns):
        return Failure("invalid-response", f"the answer has not {count} rows, as were asked for")

    digest = document.get("digest")
    choices: list[Choice] = []
    for action, q_values, out_of_range in zip(*lists, strict=True):
        choice = _choice(action, q_values, out_of_range, digest)
        if isinstance(choice, Failure):
            return choice
        choices.append(choice)
    return choices


def read_model(document: Document) -> Model | Failure:
    """Return what the answer of `/model` says."""
    problem = read_problem(document)
    if problem is not None:
        return problem

    digest, backend = document.get("digest"), document.get("backend")
    manifest = document.get("manifest")
    if isinstance(digest, str) and isinstance(backend, str) and isinstance(manifest, dict):
        return Model(digest, backend, manifest)
    return Failure("invalid-response", "the answer lacks the digest, the backend or the manifest")


def _choice(
    action: object, q_values: object, out_of_range: object, digest: object
) -> Choice | Failure:
    if (
        type(action) is not int
        or not isinstance(q_values, list)
        or not 0 <= action < len(q_values)
        or not isinstance(digest, str)
        or not isinstance(out_of_range, list)
        or (out_of_range and not all(isinstance(name, str) for name in out_of_range))
    ):
        return Failure("invalid-response", "the answer has not the fields of an answer")

    try:
        values = tuple([float(value) if type(value) in (float, int) else nan for value in q_values])
    except OverflowError:  # an integer with more digits than a float can have
        values = (nan,)
    for value in values:
        if not isfinite(value):
            return Failure("invalid-response", "a Q-value is no finite number")
    return Choice(action, values, tuple(out_of_range), digest)
