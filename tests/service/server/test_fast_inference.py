"""Inference over REST by the Open Inference Protocol: both paths answer alike."""

import json
from collections.abc import Iterator
from dataclasses import replace

import httpx2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from models import bundle
from service.inference.loading import load
from service.inference.policy import Policy
from service.server.application import create_application
from service.state import ServiceState
from tests.support.backends import FixedBackend
from tests.support.metrics import samples
from tests.support.project import COMMITTED
from tests.support.raw_http import BothPaths, Headers, ask, both_paths, leave, request, serving
from tests.support.service import settings

BUNDLE = bundle.read(COMMITTED)
POLICY = load(BUNDLE, "onnx")
EXAMPLES = max(300, (hypothesis_settings.default or hypothesis_settings()).max_examples)
MODEL = f"/v2/models/{BUNDLE.manifest.name}"
VERSION = f"{MODEL}/versions/{BUNDLE.manifest.version}"
BYTE_SIZES = {"FP32": "<f4", "FP64": "<f8", "FP16": "<f2", "INT32": "<i4", "INT64": "<i8"}
MAX_BATCH = 5


@pytest.fixture(scope="module")
def both() -> Iterator[BothPaths]:
    with both_paths(
        settings(max_batch_body=2_000, max_batch=MAX_BATCH), ServiceState(POLICY)
    ) as both:
        yield both


numbers = st.floats(-3, 3) | st.integers(-3, 3) | st.floats() | st.integers()
anything = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
datatypes = st.sampled_from([*BYTE_SIZES] * 4 + ["BYTES"])
rarely = st.integers(0, 15).map(lambda number: number == 0)
outputs = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from(["q_values", "action"] * 8 + ["state"])},
        optional={
            "parameters": st.sampled_from(
                [{}, None, {"binary_data": True}, {"binary_data": False}] * 6
                + [{"binary_data": 1}, {"classification": 2}]
            )
        },
    ),
    max_size=2,
)


@st.composite
def inferences(draw: st.DrawFn) -> tuple[bytes, Headers]:
    """A request that is mostly right, and the headers that belong to it."""
    count = draw(st.integers(1, MAX_BATCH)) + draw(rarely)
    datatype = draw(datatypes)
    tensor: dict[str, object] = {"name": "state", "shape": [count, 4], "datatype": datatype}
    document: dict[str, object] = {"inputs": [tensor]}
    headers: Headers = []
    raw = b""
    if not draw(rarely):
        whole = datatype.startswith("INT")
        values = draw(
            st.lists(
                st.integers(-3, 3) if whole else st.floats(-3, 3, width=16),
                min_size=4 * count,
                max_size=4 * count,
            )
        )
        if draw(st.booleans()):
            raw = np.array(values, BYTE_SIZES.get(datatype, "<f4")).tobytes()
            tensor["parameters"] = {"binary_data_size": len(raw) + draw(rarely)}
        elif draw(st.booleans()):
            tensor["data"] = values
        else:
            tensor["data"] = [values[row : row + 4] for row in range(0, len(values), 4)]
    else:
        tensor["data"] = draw(st.lists(numbers, min_size=4 * count, max_size=4 * count))
    for name, contents in (
        ("id", st.text(max_size=5) | st.just("42")),
        ("outputs", outputs | st.none()),
        ("parameters", st.sampled_from([{}, None, {"binary_data_output": True}, {"x": 1}])),
    ):
        if draw(st.booleans()):
            document[name] = draw(contents)
    if draw(rarely):
        name = draw(st.sampled_from(["id", "inputs", "outputs", "parameters", "more"]))
        document[name] = draw(anything)
    if draw(rarely):
        tensor[draw(st.sampled_from(["name", "shape", "datatype", "data", "parameters"]))] = draw(
            anything
        )

    text = json.dumps(document).encode()
    if raw or draw(rarely):
        headers.append(
            (
                b"inference-header-content-length",
                b"%d" % (len(text) + draw(rarely)) if not draw(rarely) else draw(oddities),
            )
        )
    return text + raw, headers


oddities = st.sampled_from([b"", b"-1", b"x", b"9" * 30, b"1e2", b"\xb2"])
header = (
    st.tuples(
        st.just(b"if-match"),
        st.sampled_from([f'"{BUNDLE.digest}"'.encode(), b"*"] * 3 + [b'"other"']),
    )
    | st.tuples(st.just(b"x-request-id"), st.sampled_from([b"loop-7/42", b"=1+1", b"\xff"]))
    | st.tuples(st.just(b"content-encoding"), st.sampled_from([b"identity", b"gzip", b"br"]))
    | st.tuples(st.just(b"connection"), st.sampled_from([b"keep-alive", b"close"]))
)
paths = st.sampled_from(
    [f"{MODEL}/infer", f"{VERSION}/infer"] * 12
    + [
        f"{MODEL}/infer/",
        f"{MODEL}/infer?x=1",
        f"{MODEL}/versions/9/infer",
        "/v2/models/other/infer",
        "/v2/models//infer",
        f"/v2/models/%63{BUNDLE.manifest.name[1:]}/infer",
    ]
)


@hypothesis_settings(max_examples=EXAMPLES, deadline=None)
@given(
    inference=inferences(),
    cuts=st.lists(st.integers(0, 400), max_size=2),
    chunked=st.booleans(),
    headers=st.lists(header, max_size=2),
    method=st.sampled_from(["POST"] * 18 + ["GET", "HEAD"]),
    path=paths,
)
def test_no_byte_differs_between_the_paths(
    both: BothPaths,
    inference: tuple[bytes, Headers],
    cuts: list[int],
    chunked: bool,
    headers: Headers,
    method: str,
    path: str,
) -> None:
    """`--hypothesis-profile long` compares ten thousand requests."""
    body, needed = inference
    ends = sorted(min(cut, len(body)) for cut in cuts)
    pieces = [body[start:end] for start, end in zip([0, *ends], [*ends, len(body)], strict=True)]
    sent = request(method, path, [*needed, *headers], pieces, chunked=chunked)
    fast = ask(both.fast, sent, has_body=method != "HEAD")
    asgi = ask(both.asgi, sent, has_body=method != "HEAD")
    assert fast == asgi


def document(count: int = 1, **changes: object) -> bytes:
    tensor = {"name": "state", "shape": [count, 4], "datatype": "FP32"}
    return json.dumps(
        {"inputs": [tensor | {"data": [0.0, 0.0, 0.05, 0.0] * count}]} | changes
    ).encode()


@pytest.mark.parametrize(
    ("body", "status"), [(document(), 200), (document(9), 400), (b"{", 400), (b"\xff", 400)]
)
def test_the_fast_path_answers_what_is_right_and_what_is_wrong(body: bytes, status: int) -> None:
    application = create_application(settings(max_batch=8), ServiceState(POLICY))
    written: list[bytes] = []
    for path in (f"{MODEL}/infer", f"{VERSION}/infer"):
        endpoint = application.fast_path.find(path.encode())
        assert endpoint is not None
        assert application.fast_path.answer(
            endpoint, {}, body, 0.0, b"", lambda answer, _: written.append(answer)
        )
        assert written.pop().startswith(b"HTTP/1.1 %d " % status)


@pytest.mark.parametrize("backend", [FixedBackend(np.nan, 1), FixedBackend(3, np.inf)])
def test_both_paths_fail_alike_when_the_policy_does(backend: FixedBackend) -> None:
    with both_paths(settings(), ServiceState(Policy(BUNDLE, backend, "onnx"))) as both:
        for count in (1, 2):
            sent = request("POST", f"{MODEL}/infer", [], [document(count)])
            fast, asgi = ask(both.fast, sent), ask(both.asgi, sent)
            assert fast == asgi
            assert fast[0].status == 500


def renamed(changes: dict[str, str]) -> Policy:
    manifest = BUNDLE.manifest.model_copy(update=changes)
    return load(replace(BUNDLE, manifest=manifest), "onnx")


def test_a_model_of_another_name_is_found_by_its_name_from_its_first_request_on() -> None:
    other = renamed({"name": "other", "version": "7"})

    state = ServiceState(POLICY)
    with serving(settings(), state) as port:
        statuses = []
        for policy in (POLICY, other):
            state.replace_policy(policy)
            for path in (f"{MODEL}/infer", "/v2/models/other/infer"):
                [answer] = ask(port, request("POST", path, [], [document()]))
                statuses.append(answer.status)
        [versioned] = ask(
            port, request("POST", "/v2/models/other/versions/7/infer", [], [document()])
        )
    assert statuses == [200, 404, 404, 200]
    assert json.loads(versioned.body)["model_version"] == "7"


def test_a_model_that_is_replaced_while_its_request_comes_in_is_not_answered_by_another() -> None:
    other = renamed({"name": "other"})

    state = ServiceState(POLICY)
    with serving(settings(), state) as port:
        head, *rest = request("POST", f"{MODEL}/infer", [], [b"", document()])

        def pieces() -> Iterator[bytes]:
            yield head
            httpx2.get(f"http://127.0.0.1:{port}/health/ready")  # the head has been read by now
            state.replace_policy(other)
            yield from rest

        [answer] = ask(port, pieces())
    assert answer.status == 404
    assert "there is no model" in answer.body.decode()


def test_requests_are_counted_under_the_protocols_label(both: BothPaths) -> None:
    def counted(status: str) -> float:
        text = ask(both.fast, request("GET", "/metrics", [], []))[0].body.decode()
        return samples(text).get(("upright_requests_total", ("/v2", status)), 0)

    before = counted("200"), counted("400"), counted("499")
    sent = request("POST", f"{MODEL}/infer", [], [document()])
    assert ask(both.fast, sent)[0].status == 200
    assert ask(both.fast, request("POST", f"{MODEL}/infer", [], [b"{"]))[0].status == 400
    leave(both.fast, sent[0][:-3])
    for _ in range(200):  # until the server has noticed
        after = counted("200"), counted("400"), counted("499")
        if after == tuple(count + 1 for count in before):
            return
    raise AssertionError((before, after))
