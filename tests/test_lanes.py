"""Both lanes answer alike, for every request; and what only the fast lane could get wrong."""

import asyncio
import json
import re
import threading
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import httpx2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from models import bundle
from service import answers
from service.app import create_app
from service.lanes import Lanes
from service.policy import Policy, load
from service.schemas import ActResponse, BatchResponse
from service.served import Served
from tests.conftest import COMMITTED, Start, settings
from tests.test_policy import FixedBackend

App = Callable[[Any, Any, Any], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]
Sent = list[dict[str, Any]]

BUNDLE = bundle.read(COMMITTED)
POLICY = load(BUNDLE, "onnx")
LANES = create_app(settings(max_body=200, max_batch_body=2_000, max_batch=5), Served(POLICY))
EXAMPLES = max(300, (hypothesis_settings.default or hypothesis_settings()).max_examples)
STATE = b'{"state":[0,0,0.05,0]}'


def ask(app: App, pieces: Iterable[bytes | None], *, method: str = "POST", path: str = "/act", headers: Headers | None = None) -> Sent:
    """Return what `app` sends for a body that comes in `pieces`; at None the client goes away."""
    waiting = list(pieces)
    sent: Sent = []

    async def receive() -> dict[str, Any]:
        piece = waiting.pop(0) if waiting else None
        if piece is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": piece, "more_body": bool(waiting)}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http", "path": path,
        "raw_path": path.encode(), "query_string": b"", "root_path": "", "headers": headers or [], "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000), "state": {},
    }  # fmt: skip
    asyncio.run(app(scope, receive, send))  # type: ignore[arg-type] # an ASGI application gives a coroutine
    return sent


def comparable(sent: Sent) -> tuple[int, Headers, bytes] | None:
    """Return status, headers in their order and body, but for the time that inference took and the id that was made up."""
    if not sent:
        return None
    start, *parts = sent
    headers = [
        (name, re.sub(rb"[0-9.]+$", b"", value) if name == b"server-timing" else re.sub(rb"^[0-9a-f]{32}$", b"", value))
        for name, value in start["headers"]
    ]
    return start["status"], headers, b"".join(part.get("body", b"") for part in parts)


numbers = st.floats(-3, 3) | st.floats() | st.integers(-3, 3) | st.integers()
states = st.lists(numbers, min_size=4, max_size=4)
anything = st.recursive(st.none() | st.booleans() | numbers | st.text(max_size=5), lambda inner: st.lists(inner, max_size=5), max_leaves=6)
requests = st.fixed_dictionaries(
    {},
    optional={
        "state": states | anything,
        "states": st.lists(states, max_size=7) | anything,
        "seq": st.integers(0) | anything,
        "stat": anything,
    },
)
bodies = (
    st.builds(lambda value: json.dumps(value).encode(), st.fixed_dictionaries({"state": states}) | requests | anything)
    | st.builds(lambda value: json.dumps(value).encode(), st.fixed_dictionaries({"states": st.lists(states, max_size=7)}))
    | st.binary(max_size=300)
)
tags = st.sampled_from(
    [f'"{BUNDLE.digest}"'.encode(), b"*", b" * ", b'"sha256:other"', f'"x", "{BUNDLE.digest}"'.encode(), b"", b"\xe9\xff"]
)
header = (
    st.tuples(st.just(b"if-match"), tags | st.binary(max_size=20))
    | st.tuples(st.just(b"x-request-id"), st.binary(max_size=140) | st.just(b"loop-7/42"))
    | st.tuples(
        st.just(b"content-length"), st.integers(0, 5_000).map(lambda n: b"%d" % n) | st.sampled_from([b"", b"x", b"-1", b"9" * 5_000])
    )
    | st.tuples(st.just(b"content-type"), st.sampled_from([b"application/json", b"text/plain", b""]))
    | st.tuples(st.sampled_from([b"accept", b"origin", b"expect"]), st.binary(max_size=10))
)
methods = st.sampled_from(["POST"] * 8 + ["GET", "PUT", "HEAD", "OPTIONS"])
paths = st.sampled_from(["/act"] * 4 + ["/act/batch"] * 3 + ["/act/", "/actor"])


@st.composite
def pieces(draw: st.DrawFn) -> list[bytes | None]:
    body = draw(bodies)
    cuts = sorted(draw(st.lists(st.integers(0, len(body)), max_size=3)))
    parts: list[bytes | None] = [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    return [*parts[:-1], None] if draw(st.integers(0, 9)) == 0 else parts


@hypothesis_settings(max_examples=EXAMPLES, deadline=None)
@given(body=pieces(), headers=st.lists(header, max_size=5), method=methods, path=paths)
def test_no_byte_differs_between_the_lanes(body: list[bytes | None], headers: Headers, method: str, path: str) -> None:
    """`--hypothesis-profile long` compares ten thousand requests."""
    fast = ask(LANES, body, method=method, path=path, headers=headers)
    general = ask(LANES.general, body, method=method, path=path, headers=headers)
    assert comparable(fast) == comparable(general)


@pytest.mark.parametrize("backend", [FixedBackend(np.nan, 1), FixedBackend(3, np.inf)])
@pytest.mark.parametrize("path", ["/act", "/act/batch"])
def test_the_lanes_fail_alike_when_the_policy_does(backend: FixedBackend, path: str) -> None:
    lanes = create_app(settings(), Served(Policy(BUNDLE, backend, "onnx")))
    for state in (b"[0,0,0,0]", b"[99,0,0,0]"):
        body = b'{"state":%s}' % state if path == "/act" else b'{"states":[[0.01,0,0,0],%s]}' % state
        fast, general = ask(lanes, [body], path=path), ask(lanes.general, [body], path=path)
        assert comparable(fast) == comparable(general)
        assert fast[0]["status"] in (422, 500)


def test_the_lanes_answer_an_unforeseen_failure_alike_and_log_it_under_the_callers_id(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def q_values(self, _: object) -> object:
            raise MemoryError("no memory")

    lanes = create_app(settings(), Served(Policy(BUNDLE, Broken(), "onnx")))  # type: ignore[arg-type] # broken on purpose
    answered = [comparable(ask(lane, [STATE], headers=[(b"x-request-id", b"r1")])) for lane in (lanes, lanes.general)]
    assert answered[0] == answered[1]
    assert answered[0] is not None
    assert [record.getMessage() for record in caplog.records] == ["request r1 failed: no memory"] * 2
    assert all(record.exc_info for record in caplog.records)
    assert answered[0][0] == 500
    assert (b"x-request-id", b"r1") in answered[0][1]


@pytest.mark.parametrize("path", ["/act", "/act/batch"])
def test_a_client_that_leaves_before_its_body_has_come_gets_nothing_and_is_counted(path: str) -> None:
    lanes = create_app(settings(), Served(POLICY))
    for lane in (lanes, lanes.general):
        assert ask(lane, [b'{"sta', None], path=path) == []
    text = ask(lanes, [b""], method="GET", path="/metrics")[1]["body"].decode()
    assert f'upright_requests_total{{door="{path}",status="499"}} 2.0' in text


def test_a_body_is_refused_by_the_length_that_it_declares_before_it_is_read() -> None:
    sent = ask(LANES, [None], headers=[(b"content-length", b"5000")])
    assert sent[0]["status"] == 413


@hypothesis_settings(max_examples=200, deadline=None)
@given(state=st.tuples(*[st.floats(-5, 5)] * 4), seq=st.none() | st.integers(0, 2**63 - 1))
def test_an_answer_is_written_as_its_schema_would_write_it(state: tuple[float, ...], seq: int | None) -> None:
    one = answers.act(POLICY, json.dumps({"state": state} | ({} if seq is None else {"seq": seq})).encode(), None)
    assert ActResponse.model_validate_json(one.body, strict=True).model_dump_json().encode() == one.body
    several = answers.act_batch(POLICY, json.dumps({"states": [state] * 3}).encode(), None, max_batch=3)
    assert BatchResponse.model_validate_json(several.body, strict=True).model_dump_json().encode() == several.body


def test_concurrent_clients_get_their_own_answers(start: Start) -> None:
    """Each of 32 clients sends states of its own; inference reads and writes in place, and must never mix them up."""
    rng = np.random.default_rng(5)
    states = rng.uniform([-2, -2, -0.2, -2], [2, 2, 0.2, 2], (32, 20, 4))
    expected = [POLICY.decide(rows.astype(np.float32)).q_values for rows in states]

    async def client(address: str, number: int) -> None:
        async with httpx2.AsyncClient() as connection:
            for row in range(20):
                answer = (await connection.post(f"{address}/act", json={"state": states[number, row].tolist(), "seq": number})).json()
                assert (answer["q_values"], answer["seq"]) == (expected[number][row], number)

    async def clients(address: str) -> None:
        await asyncio.gather(*(client(address, number) for number in range(32)))

    with start() as address:
        asyncio.run(clients(address))


def test_threads_that_share_a_policy_get_their_own_answers() -> None:
    rng = np.random.default_rng(6)
    states = rng.uniform(-1, 1, (8, 200, 4)).astype(np.float32)
    expected = [POLICY.decide(rows).q_values for rows in states]
    found: list[list[list[float]]] = [[] for _ in states]

    def work(number: int) -> None:
        a_third = len(states[number]) // 3
        found[number] = [POLICY.decide_one(tuple(state)).q_values for state in states[number, :a_third].tolist()]
        found[number] += POLICY.decide(states[number, a_third:]).q_values

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(states))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected


def test_the_general_lane_has_what_the_fast_one_has() -> None:
    assert isinstance(LANES, Lanes)
    assert comparable(ask(LANES, [STATE])) == comparable(ask(LANES.general, [STATE]))
