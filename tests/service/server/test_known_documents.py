"""A document that is known is answered byte for byte as one that is validated anew."""

import json
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from models import bundle
from service.api.open_inference import rest
from service.api.open_inference.known_documents import MOST, Answer, KnownDocuments
from service.inference.loading import load
from service.inference.policy import Inference, Policy
from service.state import ServiceState
from tests.support.project import COMMITTED
from tests.support.raw_http import BothPaths, ask, both_paths, request
from tests.support.service import settings

BUNDLE = bundle.read(COMMITTED)
POLICY = load(BUNDLE, "onnx")
NAME = BUNDLE.manifest.name
PATH = f"/v2/models/{NAME}/infer"
STATE = [0.01, -0.02, 0.03, 0.04]


@pytest.fixture(scope="module")
def both() -> Iterator[BothPaths]:
    with both_paths(settings(max_batch=8), ServiceState(POLICY)) as both:
        yield both


def asked(
    data: str = json.dumps(STATE),
    *,
    count: int = 1,
    before: str = "",
    after: str = "",
    tensor: str = "",
) -> bytes:
    """Return a document whose `data` stands there as it is, between other fields."""
    return (
        f'{{{before}"inputs": [{{"name": "state", "shape": [{count}, 4], "datatype": "FP32",'
        f' "data": {data}{tensor}}}]{after}}}'
    ).encode()


def answers(both: BothPaths, body: bytes) -> None:
    """Hold the fast path to the other one."""
    sent = request("POST", PATH, [], [body])
    assert ask(both.fast, sent) == ask(both.asgi, sent)


values = st.floats(-0.25, 0.25, width=32) | st.floats() | st.integers() | st.integers(-1, 1)
arrays = st.one_of(
    st.lists(values, min_size=4, max_size=4).map(json.dumps),
    st.lists(values | st.booleans() | st.none() | st.text(max_size=3), max_size=9).map(json.dumps),
    st.sampled_from(
        [
            "[]",
            "[1,2,3,4",
            "1,2,3,4]",
            "[[0, 0, 0, 0]]",
            "[0, 0, 0, 0,]",
            "[01, 0, 0, 0]",
            "[0 0,0,0,]",
            "[ 1e-400, -0.0 ,\t1E2,0]",
            "[NaN, 0, 0, 0]",
            "[-Infinity, 0, 0, 0]",
            "null",
            "[0,0,0,0],[",
            '[0, 0, 0, 0], "data": [1, 1, 1, 1]',
            "[0.1, 0.1, 0.1, " + "9" * 5_000 + "]",
        ]
    ),
)
ids = st.one_of(
    st.text(max_size=5).map(json.dumps),
    st.sampled_from(
        [
            "null",
            "5",
            '""',
            '"\\u0041"',
            '"a\\"b"',
            '"\x7f"',
            '"\t"',
            '"a", "id": "b"',
            '"\\"data\\": [1"',
        ]
    ),
)


@hypothesis_settings(deadline=None)
@given(
    first=ids | st.none(),
    second=ids,
    data=arrays,
    is_last=st.booleans(),
    fields=st.sampled_from(
        [
            "",
            ', "outputs": [{"name": "action"}]',
            ', "parameters": {"id": "x"}',
            ', "outputs": [{"name": "action"}, {"name": "q_values"}]',
            ', "parameters": {"strict": true}',
            ', "more": {"data": [1, 2, 3, 4]}',
            ', "parameters": {"binary_data_output": true}',
        ]
    ),
)
@example(
    first='"a"',
    second='"b"',
    data="[0, 0, 3, 0]",
    is_last=False,
    fields=', "parameters": {"strict": true}',
)
def test_what_is_known_is_answered_as_what_is_not(
    both: BothPaths, first: str | None, second: str, data: str, is_last: bool, fields: str
) -> None:
    def body(data: str, request_id: str | None) -> bytes:
        if request_id is None:
            return asked(data, after=fields)
        if is_last:
            return asked(data, after=f'{fields}, "id": {request_id}')
        return asked(data, before=f'"id": {request_id}, ', after=fields)

    known = body(json.dumps(STATE), first)
    for document in (
        known,
        known,
        body(data, first),
        body(data, None if first is None else second),
        known,
    ):
        answers(both, document)


def whole(policy: Policy, body: bytes, length: int | None = None) -> tuple[Answer, Inference]:
    """Return the answer to a body that is validated; its document has so many bytes, or is all."""
    header = None if length is None else str(length)
    content, media_type, headers, inference = rest.infer(policy, NAME, body, header, 8)
    lines = b"".join(b"%b: %b\r\n" % line for line in headers)
    return (content, media_type, lines, inference), inference


def known_after(
    *bodies: bytes,
    policy: Policy = POLICY,
    known: KnownDocuments | None = None,
    length: int | None = None,
) -> KnownDocuments:
    known = KnownDocuments() if known is None else known
    for body in bodies:
        header = None if length is None else b"%d" % length
        known.learn(policy, body, header, whole(policy, body, length)[0])
    return known


@pytest.mark.parametrize("count", [1, 2, 8])
@pytest.mark.parametrize(
    "form",
    [
        {},
        {"before": '"id": "1", '},
        {"after": ', "id": "1"'},
        {"after": ', "outputs": [{"name": "action"}]'},
        {"after": ', "parameters": {"strict": true}'},
    ],
)
def test_a_loops_next_request_is_known(count: int, form: dict[str, str]) -> None:
    known = known_after(asked(json.dumps(STATE * count), count=count, **form))
    body = asked(json.dumps([-0.01] * (4 * count - 1) + [0]), count=count, **form).replace(
        b'"1"', b'"a longer one"'
    )
    answered = known.answer(POLICY, body, None)
    assert answered is not None
    (*expected, as_expected), inference = whole(POLICY, body)[0], answered[3]
    assert answered[:3] == tuple(expected)
    assert [tuple(row) for row in inference.states] == [tuple(row) for row in as_expected.states]
    assert list(inference.actions) == list(as_expected.actions)


@pytest.mark.parametrize(
    "body",
    [
        asked("[[0, 0, 0, 0]]"),
        asked(tensor=', "data": [1, 1, 1, 1]'),
        asked(before='"id": "a", ', after=', "id": "b"'),
        asked(before='"parameters": {"id": "a"}, ', after=', "id": "a"'),
        asked(before='"x": {"data": [1, 2, 3, 4]}, '),
        asked(before='"id": "\\u0041", '),
        asked(before='"id": null, '),
        asked(after=f', "x": "{"x" * 1_000}"'),
        asked("[0, 0, 0, 0]").replace(b"FP32", b"INT32"),
    ],
)
def test_other_forms_are_never_known(body: bytes) -> None:
    assert known_after(body, body).answer(POLICY, body, None) is None


def test_more_forms_than_are_kept_in_mind_are_forgotten_and_learned_anew() -> None:
    bodies = [asked(before=f'"x": {number}, ') for number in range(MOST + 1)]
    known = known_after(*bodies)
    assert known.answer(POLICY, bodies[0], None) is None
    assert known.answer(POLICY, bodies[-1], None) is not None
    assert known_after(bodies[0], known=known).answer(POLICY, bodies[0], None) is not None


def test_what_is_known_of_one_policy_is_not_told_of_the_next() -> None:
    manifest = BUNDLE.manifest.model_copy(update={"version": "2"})
    other = load(replace(BUNDLE, manifest=manifest), "onnx")
    known = known_after(asked())
    assert known.answer(other, asked(), None) is None
    answered = known_after(asked(), policy=other, known=known).answer(other, asked(), None)
    assert answered is not None
    assert json.loads(answered[0])["model_version"] == "2"


def test_states_out_of_range_are_left_to_who_refuses_them() -> None:
    outside = asked("[0, 0, 3, 0]")
    assert known_after(asked()).answer(POLICY, outside, None) is not None
    assert (
        known_after(asked(), known=KnownDocuments(strict=True)).answer(POLICY, outside, None)
        is None
    )


def in_bytes(*states: list[float], output: str = "", **fields: object) -> tuple[bytes, int]:
    """Return a request whose states are bytes behind its document, and the document's length."""
    size = 16 * len(states)
    tensor = {"name": "state", "shape": [len(states), 4], "datatype": "FP32"}
    document = {
        "inputs": [tensor | {"parameters": {"binary_data_size": size}}],
        "outputs": [
            {"name": name, "parameters": {"binary_data": name == output or output == "all"}}
            for name in ("action", "q_values")
        ],
    }
    text = json.dumps(document | fields).encode()
    return text + np.array(states, "<f4").tobytes(), len(text)


@pytest.mark.parametrize("output", ["", "all", "action", "q_values"])
@pytest.mark.parametrize("count", [1, 2, 8])
@pytest.mark.parametrize("fields", [{}, {"id": "1"}])
def test_states_in_bytes_are_known_too(output: str, count: int, fields: dict[str, object]) -> None:
    known = known_after(
        (first := in_bytes(*[STATE] * count, output=output, **fields))[0], length=first[1]
    )
    other = fields and {"id": "another"}
    body, length = in_bytes(*[[-0.01, 0.02, 0.0, 1.0]] * count, output=output, **other)
    answered = known.answer(POLICY, body, b"%d" % length)
    assert answered is not None
    assert answered[:3] == whole(POLICY, body, length)[0][:3]


@given(
    states=st.lists(st.lists(values, min_size=4, max_size=4), min_size=1, max_size=3),
    change=st.sampled_from(["none", "short", "long", "length", "no length", "id", "datatype"]),
    output=st.sampled_from(["", "all", "action"]),
)
def test_bytes_that_are_known_are_answered_as_those_that_are_not(
    both: BothPaths, states: list[list[float]], change: str, output: str
) -> None:
    count = len(states)
    known, length = in_bytes(*[STATE] * count, output=output, id="a")
    with np.errstate(over="ignore"):
        other, other_length = in_bytes(
            *([float(value) for value in state] for state in states),
            output=output,
            id="\u00e4" if change == "id" else "b",
        )
    match change:
        case "short":
            other = other[:-1]
        case "long":
            other += b"\0" * 16
        case "length":
            other_length -= 1
        case "datatype":
            other = other.replace(b"FP32", b"FP64")
    for body, size in ((known, length), (known, length), (other, other_length), (known, length)):
        headers = [(b"inference-header-content-length", b"%d" % size)]
        sent = request("POST", PATH, [] if change == "no length" else headers, [body])
        assert ask(both.fast, sent) == ask(both.asgi, sent)
