"""Both paths answer alike, for every request; and what only the fast path could get wrong."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator

import httpx2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from models import bundle
from service.api import act as answers
from service.api.schemas import ActResponse, BatchResponse
from service.inference.loading import load
from service.inference.policy import Policy
from service.server.application import create_application
from service.state import ServiceState
from tests.support.backends import FixedBackend
from tests.support.metrics import samples
from tests.support.project import COMMITTED
from tests.support.raw_http import BothPaths, Headers, ask, both_paths, leave, request
from tests.support.service import Start, settings

BUNDLE = bundle.read(COMMITTED)
POLICY = load(BUNDLE, "onnx")
EXAMPLES = max(300, (hypothesis_settings.default or hypothesis_settings()).max_examples)
STATE = b'{"state":[0,0,0.05,0]}'


@pytest.fixture(scope="module")
def both() -> Iterator[BothPaths]:
    with both_paths(
        settings(max_body=200, max_batch_body=2_000, max_batch=5), ServiceState(POLICY)
    ) as both:
        yield both


numbers = st.floats(-3, 3) | st.floats() | st.integers(-3, 3) | st.integers()
states = st.lists(numbers, min_size=4, max_size=4)
anything = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5),
    max_leaves=6,
)
requests = st.fixed_dictionaries(
    {},
    optional={
        "state": states | anything,
        "states": st.lists(states, max_size=7) | anything,
        "seq": st.integers(0) | anything,
        "strict": st.booleans() | anything,
        "stat": anything,
    },
)
bodies = (
    st.builds(
        lambda value: json.dumps(value).encode(),
        st.fixed_dictionaries({"state": states}, optional={"strict": st.booleans()})
        | requests
        | anything,
    )
    | st.builds(
        lambda value: json.dumps(value).encode(),
        st.fixed_dictionaries(
            {"states": st.lists(states, max_size=7)}, optional={"strict": st.booleans()}
        ),
    )
    | st.binary(max_size=300)
)
tags = st.sampled_from(
    [
        f'"{BUNDLE.digest}"'.encode(),
        b"*",
        b" * ",
        b'"sha256:other"',
        f'"x", "{BUNDLE.digest}"'.encode(),
        b"",
        b"\xe9\xff",
    ]
)
visible = st.binary(max_size=140).map(
    lambda text: bytes(byte for byte in text if byte > 31 and byte != 127).strip()
)
header = (
    st.tuples(st.just(b"if-match"), tags | visible)
    | st.tuples(
        st.sampled_from([b"x-request-id", b"X-Request-ID"]), visible | st.just(b"loop-7/42")
    )
    | st.tuples(
        st.just(b"content-type"), st.sampled_from([b"application/json", b"text/plain", b""])
    )
    | st.tuples(st.sampled_from([b"accept", b"origin", b"cookie"]), visible)
    | st.tuples(st.just(b"connection"), st.sampled_from([b"keep-alive", b"close"]))
)
methods = st.sampled_from(["POST"] * 8 + ["GET", "PUT", "HEAD", "OPTIONS"])
paths = st.sampled_from(
    ["/act"] * 4 + ["/act/batch"] * 3 + ["/act/", "/actor", "/act?x=1", "/%61ct", "//act"]
)


@st.composite
def pieces(draw: st.DrawFn) -> list[bytes]:
    body = draw(bodies)
    cuts = sorted(draw(st.lists(st.integers(0, len(body)), max_size=3)))
    return [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]


@hypothesis_settings(max_examples=EXAMPLES, deadline=None)
@given(
    body=pieces(),
    chunked=st.booleans(),
    headers=st.lists(header, max_size=5),
    method=methods,
    path=paths,
)
def test_no_byte_differs_between_the_paths(
    both: BothPaths, body: list[bytes], chunked: bool, headers: Headers, method: str, path: str
) -> None:
    """`--hypothesis-profile long` compares ten thousand requests."""
    sent = request(method, path, headers, body, chunked=chunked)
    fast = ask(both.fast, sent, has_body=method != "HEAD")
    asgi = ask(both.asgi, sent, has_body=method != "HEAD")
    assert fast == asgi


@hypothesis_settings(max_examples=50, deadline=None)
@given(
    several=st.lists(
        st.tuples(bodies, paths, st.sampled_from(["POST", "GET"]), st.booleans()),
        min_size=2,
        max_size=8,
    )
)
def test_requests_that_do_not_wait_for_answers_get_them_in_their_order(
    both: BothPaths, several: list[tuple[bytes, str, str, bool]]
) -> None:
    sent = b"".join(
        b"".join(request(method, path, [], [body], chunked=chunked))
        for body, path, method, chunked in several
    )
    fast, asgi = (ask(port, [sent], answers=len(several)) for port in (both.fast, both.asgi))
    assert fast == asgi


@pytest.mark.parametrize("backend", [FixedBackend(np.nan, 1), FixedBackend(3, np.inf)])
def test_both_paths_fail_alike_when_the_policy_does(backend: FixedBackend) -> None:
    with both_paths(settings(), ServiceState(Policy(BUNDLE, backend, "onnx"))) as both:
        for state in (b"[0,0,0,0]", b"[99,0,0,0]"):
            for path, body in (
                ("/act", b'{"state":%s}' % state),
                ("/act/batch", b'{"states":[[0.01,0,0,0],%s]}' % state),
            ):
                fast, asgi = (
                    ask(port, request("POST", path, [], [body])) for port in (both.fast, both.asgi)
                )
                assert fast == asgi
                assert fast[0].status in (422, 500)


def test_both_paths_answer_an_unforeseen_failure_alike_and_log_it_under_the_callers_id(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken:
        def q_values(self, _: object) -> object:
            raise MemoryError("no memory")

    with both_paths(settings(), ServiceState(Policy(BUNDLE, Broken(), "onnx"))) as both:  # type: ignore[arg-type] # broken on purpose
        sent = request("POST", "/act", [(b"x-request-id", b"r1")], [STATE])
        fast, asgi = ask(both.fast, sent), ask(both.asgi, sent)
    assert fast == asgi
    failures = [record for record in caplog.records if record.levelname == "ERROR"]
    assert [record.getMessage() for record in failures] == ["request r1 failed: no memory"] * 2
    assert all(record.exc_info for record in failures)
    assert (fast[0].status, fast[0]["x-request-id"]) == (500, b"r1")


@pytest.mark.parametrize("path", ["/act", "/act/batch"])
def test_a_client_that_leaves_before_its_body_has_come_gets_nothing_and_is_counted(
    path: str,
) -> None:
    with both_paths(settings(), ServiceState(POLICY)) as both:
        for port in (both.fast, both.asgi):
            leave(port, request("POST", path, [], [STATE])[0][:-3])
        for _ in range(200):  # until the server has noticed
            text = ask(both.fast, request("GET", "/metrics", [], []))[0].body.decode()
            if samples(text).get(("upright_requests_total", (path, "499"))) == 2:
                return
        raise AssertionError(text)


def test_a_request_that_follows_a_good_one_and_is_no_http_gets_its_own_answer(
    both: BothPaths,
) -> None:
    good, bad = ask(
        both.fast, [b"".join(request("POST", "/act", [], [STATE])) + b"nonsense\r\n\r\n"], answers=2
    )
    assert (good.status, bad.status) == (200, 400)
    assert json.loads(bad.body)["type"] == "urn:upright:problem:not-http"


def test_an_offer_to_speak_http_2_is_declined_and_the_request_answered(both: BothPaths) -> None:
    """As Java's own HTTP client makes it with its first request."""
    offer = [
        (b"connection", b"Upgrade, HTTP2-Settings"),
        (b"upgrade", b"h2c"),
        (b"http2-settings", b"AAMAAABkAAQAoAAAAAIAAAAA"),
    ]
    for body in ([STATE], [STATE[:5], STATE[5:]]):
        sent = request("POST", "/act", offer, body)
        (answer,) = ask(both.fast, sent)
        assert (answer.status, json.loads(answer.body)["action"]) == (200, 1)
    assert ask(both.fast, [b"CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\n\r\n"])[0].status == 400


def test_a_client_that_reads_late_gets_all_its_answers_whole(both: BothPaths) -> None:
    rows = b",".join([b"[0,0,0.05,0]"] * 10_000)
    with both_paths(settings(), ServiceState(POLICY)) as both:
        sent = b"".join(request("POST", "/act/batch", [], [b'{"states":[%s]}' % rows]))
        found = ask(
            both.fast, [sent] * 3 + [b"".join(request("GET", "/health/live", [], []))], answers=4
        )
    assert [answer.status for answer in found] == [200] * 4
    assert all(answer.body.count(b'"right"') == 10_000 for answer in found[:3])


@hypothesis_settings(max_examples=200, deadline=None)
@given(state=st.tuples(*[st.floats(-5, 5)] * 4), seq=st.none() | st.integers(0, 2**63 - 1))
def test_an_answer_is_written_as_its_schema_would_write_it(
    state: tuple[float, ...], seq: int | None
) -> None:
    one, *_ = answers.act(
        POLICY, json.dumps({"state": state} | ({} if seq is None else {"seq": seq})).encode(), None
    )
    assert ActResponse.model_validate_json(one, strict=True).model_dump_json().encode() == one
    several, *_ = answers.act_batch(
        POLICY, json.dumps({"states": [state] * 3}).encode(), None, max_batch=3
    )
    assert (
        BatchResponse.model_validate_json(several, strict=True).model_dump_json().encode()
        == several
    )


def test_concurrent_clients_get_their_own_answers(start: Start) -> None:
    """Each of 32 clients sends its own states; inference in place must never mix them up."""
    rng = np.random.default_rng(5)
    states = rng.uniform([-2, -2, -0.2, -2], [2, 2, 0.2, 2], (32, 20, 4))
    expected = [list(POLICY.decide(rows.astype(np.float32)).q_values) for rows in states]

    async def client(address: str, number: int) -> None:
        async with httpx2.AsyncClient() as connection:
            for row in range(20):
                answer = (
                    await connection.post(
                        f"{address}/act",
                        json={"state": states[number, row].tolist(), "seq": number},
                    )
                ).json()
                assert (answer["q_values"], answer["seq"]) == (expected[number][row], number)

    async def clients(address: str) -> None:
        await asyncio.gather(*(client(address, number) for number in range(32)))

    with start() as address:
        asyncio.run(clients(address))


def test_threads_that_share_a_policy_get_their_own_answers() -> None:
    rng = np.random.default_rng(6)
    states = rng.uniform(-1, 1, (8, 200, 4)).astype(np.float32)
    expected = [list(POLICY.decide(rows).q_values) for rows in states]
    found: list[list[list[float]]] = [[] for _ in states]

    def work(number: int) -> None:
        a_third = len(states[number]) // 3
        found[number] = [
            POLICY.decide_one(tuple(state))[1] for state in states[number, :a_third].tolist()
        ]
        found[number] += POLICY.decide(states[number, a_third:]).q_values

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(states))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected


def test_a_body_in_pieces_that_passes_the_limit_with_its_last_one_is_refused(
    both: BothPaths,
) -> None:
    for port in (both.fast, both.asgi):
        with socket.create_connection(("127.0.0.1", port), 10) as connection:
            for piece in request("POST", "/act", [], [b"x" * 150, b"x" * 150]):
                connection.sendall(piece)
                time.sleep(0.1)
            assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_what_is_wrong_with_a_body_is_found_once() -> None:
    """The fast path answers it: the ASGI path would have to validate it again."""
    application = create_application(settings(), ServiceState(POLICY))
    written: list[bytes] = []

    def write(answer: bytes, _: object) -> None:
        written.append(answer)

    for path, body, status in (
        (b"/act", b'{"state":[0,0,0]}', b"422"),
        (b"/act", b"{", b"400"),
        (b"/act/batch", b'{"states":[[0,0,0,0]],"x":1}', b"422"),
    ):
        endpoint = application.fast_path.find(path)
        assert endpoint is not None
        assert application.fast_path.answer(endpoint, {}, body, 0.0, b"", write)
        assert written.pop().startswith(b"HTTP/1.1 %b " % status)


def test_refusals_are_alike_where_pages_of_other_origins_may_call() -> None:
    with both_paths(settings(cors_origin=["http://friend"]), ServiceState(POLICY)) as both:
        for headers in ([], [(b"origin", b"http://friend")]):
            sent = request("POST", "/act", headers, [b'{"state":[0]}'])
            [fast], [asgi] = ask(both.fast, sent), ask(both.asgi, sent)
            assert sorted(fast.headers) == sorted(asgi.headers)
            assert (fast.status, fast.body) == (asgi.status, asgi.body) == (422, asgi.body)
