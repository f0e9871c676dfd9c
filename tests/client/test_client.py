"""What `upright_client` promises a control loop, against the real service.

With and without a network that misbehaves.
"""

import ast
import asyncio
import gc
import json
import math
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from upright_client import (
    AsyncPolicyClient,
    Counters,
    Decision,
    LastAction,
    NoAnswerError,
    PolicyClient,
)
from upright_client.connections.address import parse_address
from upright_client.errors import ProtocolError
from upright_client.protocols.http11 import Http11Protocol
from upright_client.protocols.websocket import WebSocketProtocol

from models.bundle import Bundle
from tests.support.clients import PATIENT, SHORT, STATE, InLoop, InUvloop, Make
from tests.support.faulty_proxy import Fault, FaultyProxy
from tests.support.project import ROOT
from tests.support.service import Start, free_port, service, wait_for

LEFT = (0.0, 0.0, -0.05, 0.0)


@pytest.fixture(params=["threads", "asyncio", "uvloop"])
def make(request: pytest.FixtureRequest) -> Make:
    kinds: dict[str, Make] = {"threads": PolicyClient, "asyncio": InLoop, "uvloop": InUvloop}
    return kinds[request.param]


@pytest.fixture(params=["http", "stream"])
def transport(request: pytest.FixtureRequest) -> Literal["http", "stream"]:
    kind: Literal["http", "stream"] = request.param
    return kind


@pytest.fixture(scope="module")
def socket_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sockets") / "act.sock"


@pytest.fixture(scope="module")
def port(socket_path: Path) -> Iterator[int]:
    """The real service, on TCP and on a Unix socket."""
    chosen = free_port()
    with service(chosen, "--uds", str(socket_path)):
        yield chosen


@pytest.fixture
def proxy(port: int) -> Iterator[FaultyProxy]:
    with FaultyProxy(port) as proxy:
        yield proxy


def test_a_decision_holds_the_answer_and_who_gave_it(
    make: Make, transport: str, port: int, committed: Bundle
) -> None:
    with make(
        f"http://127.0.0.1:{port}",
        transport=transport,
        deadline=PATIENT,
        fallback=0,
        pin_digest=committed.digest,
    ) as client:
        decision = client.act(STATE)
        assert (decision.source, decision.reason, decision.action, decision.digest) == (
            "policy",
            None,
            1,
            committed.digest,
        )
        assert decision.q_values[1] > decision.q_values[0]
        assert 0 < decision.round_trip < PATIENT
        assert client.act(LEFT).action == 0
        assert client.act((100, 0, 0, 0)).out_of_range == ("cart_position",)
        assert client.counters() == Counters(answers=3, fallbacks={}, late_answers=0, reconnects=0)


def test_a_unix_socket_is_called_by_its_path(
    make: Make, transport: str, port: int, socket_path: Path
) -> None:
    assert port
    for address in (socket_path, str(socket_path), f"unix:{socket_path}"):
        with make(address, transport=transport, deadline=PATIENT, fallback=0) as client:
            assert client.act(STATE).source == "policy"


def test_other_endpoints_answer_on_either_transport(
    make: Make, transport: str, port: int, committed: Bundle
) -> None:
    with make(
        f"http://127.0.0.1:{port}", transport=transport, deadline=PATIENT, fallback=0
    ) as client:
        assert client.ready()
        assert client.model().digest == committed.digest
        assert client.model().manifest["name"] == "cartpole-dqn"
        single = client.act(STATE)
        batch = client.act_batch([STATE, LEFT] * 2_000)
        assert [decision.action for decision in batch] == [1, 0] * 2_000
        assert batch[0].q_values == single.q_values
        assert client.act_batch([]) == []


def test_a_state_is_any_four_numbers(make: Make, port: int) -> None:
    with make(f"http://127.0.0.1:{port}", deadline=PATIENT, fallback=0) as client:
        expected = client.act([0, 0, 0.5, 0]).q_values
        for state in (
            np.array([0, 0, 0.5, 0], np.float32),
            np.array([0, 0, 0.5, 0]),
            (0, np.float64(0), np.float32(0.5), np.int64(0)),
        ):
            assert client.act(state).q_values == expected


@pytest.mark.parametrize(
    ("state", "error"),
    [
        ((1.0, 2.0, 3.0), ValueError),
        ((1.0, 2.0, 3.0, 4.0, 5.0), ValueError),
        ((1.0, 2.0, 3.0, math.nan), ValueError),
        ((1.0, 2.0, 3.0, math.inf), ValueError),
        ((1.0, 2.0, 3.0, 1e39), ValueError),
        ((1.0, 2.0, 3.0, 10**400), ValueError),
        ((1.0, 2.0, 3.0, True), TypeError),
        ((1.0, 2.0, 3.0, "4"), TypeError),
        ((1.0, 2.0, 3.0, None), TypeError),
        (np.zeros((1, 4)), ValueError),
        (np.zeros((4, 1)), TypeError),
        ("four", TypeError),
    ],
)
def test_misuse_is_raised_at_once_even_with_no_service(
    make: Make, state: Any, error: type[Exception]
) -> None:
    with make(f"http://127.0.0.1:{free_port()}", fallback=0) as client:
        with pytest.raises(error):
            client.act(state)
        with pytest.raises(error):
            client.act_batch([STATE, state])
        assert client.counters().fallbacks == {}


@pytest.mark.parametrize(
    "options",
    [
        {"deadline": 0},
        {"deadline": math.nan},
        {"fallback": "left"},
        {"fallback": True},
        {"transport": "carrier pigeon"},
        {"pin_digest": "7f0c"},
        {"strict": "yes"},
        {"key": "line\nbreak"},
        {"connections": 0},
    ],
)
def test_a_wrong_option_is_refused_when_the_client_is_made(
    make: Make, options: dict[str, Any]
) -> None:
    with pytest.raises((ValueError, TypeError)):
        make("http://127.0.0.1:1", **({"fallback": 0} | options))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"deadline": 20}, "deadline is in seconds, at most 10: 20 ms are 0.02"),
        ({"fallback": 2}, r"fallback gives an action, 0 \(left\) or 1 \(right\), not 2"),
        ({"fallback": -1}, "not -1"),
        ({"fallback": LastAction(2)}, "not 2"),
    ],
)
def test_milliseconds_for_seconds_and_an_action_that_is_none_are_refused(
    options: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        PolicyClient("http://127.0.0.1:1", **{"fallback": 0} | options)


@pytest.mark.parametrize(
    "address",
    [
        "http://",
        "http://a//b",
        "http://a/b c",
        "a:80",
        "http://u@a",
        "",
        "http://a?x",
        "http://a#x",
    ],
)
def test_an_address_that_is_not_understood_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="expected http"):
        parse_address(address)


def test_with_no_service_the_fallback_answers(make: Make, transport: str) -> None:
    with make(
        f"http://127.0.0.1:{free_port()}", transport=transport, deadline=SHORT, fallback=1
    ) as client:
        decisions = [client.act(STATE) for _ in range(20)]
        assert {(decision.action, decision.source, decision.reason) for decision in decisions} == {
            (1, "fallback", "disconnected")
        }
        assert decisions[0].q_values == ()
        assert decisions[0].digest is None
        assert not client.ready()
        assert {decision.reason for decision in client.act_batch([STATE, LEFT])} == {"disconnected"}
        with pytest.raises(NoAnswerError, match="disconnected"):
            client.model()


def test_a_name_that_no_name_server_knows_holds_up_nobody(make: Make) -> None:
    with make("http://nowhere.invalid:1", deadline=SHORT, fallback=1) as client:
        started = time.monotonic()
        assert client.act(STATE).reason == "disconnected"
        assert time.monotonic() - started < 1


def test_a_fallback_may_be_the_last_action_or_a_function(
    make: Make, transport: str, port: int
) -> None:
    with (
        FaultyProxy(port) as proxy,
        make(
            proxy.address, transport=transport, deadline=PATIENT, fallback=LastAction(first=0)
        ) as client,
    ):
        client.act(STATE)
        proxy.fault = "reset"
        decision = client.act(LEFT)
        assert (decision.source, decision.action) == ("fallback", 1)
    with make(
        f"http://127.0.0.1:{free_port()}", fallback=lambda state: int(state[2] > 0)
    ) as client:
        assert [client.act(STATE).action, client.act(LEFT).action] == [1, 0]
    with make(f"http://127.0.0.1:{free_port()}", fallback=LastAction(first=1)) as client:
        assert client.act(LEFT).action == 1


def test_a_fallback_that_gives_no_action_is_misuse(make: Make) -> None:
    with (
        make(f"http://127.0.0.1:{free_port()}", fallback=lambda _: "left") as client,
        pytest.raises(TypeError, match="left"),
    ):
        client.act(STATE)


def test_another_bundle_than_the_pinned_one_never_decides(
    make: Make, transport: str, port: int
) -> None:
    with make(
        f"http://127.0.0.1:{port}",
        transport=transport,
        deadline=PATIENT,
        fallback=0,
        pin_digest="sha256:" + "0" * 64,
    ) as client:
        decision = client.act(STATE)
        assert (decision.source, decision.reason, decision.action) == (
            "fallback",
            "other-bundle",
            0,
        )
        assert client.act_batch([STATE])[0].reason == "other-bundle"


@pytest.mark.parametrize("action", [2, -1])
def test_a_fallback_function_that_gives_another_action_is_refused(
    make: Make, transport: str, action: int
) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    with make(nowhere, transport=transport, deadline=0.05, fallback=lambda _: action) as client:
        for call in (lambda: client.act(STATE), lambda: client.act_batch([STATE])):
            with pytest.raises(ValueError, match=f"not {action}"):
                call()


def test_a_deadline_of_a_batch_in_milliseconds_is_refused(
    make: Make, transport: str, port: int
) -> None:
    with (
        make(f"http://127.0.0.1:{port}", transport=transport, fallback=0) as client,
        pytest.raises(ValueError, match="deadline is in seconds, at most 10"),
    ):
        client.act_batch([STATE], deadline=20)


def test_a_strict_client_falls_back_in_states_that_training_never_saw(
    make: Make, transport: str, port: int
) -> None:
    three_degrees = (0, 0, 3, 0)
    with make(
        f"http://127.0.0.1:{port}",
        transport=transport,
        deadline=PATIENT,
        fallback=LastAction(0),
        strict=True,
    ) as client:
        assert client.act(STATE).source == "policy"
        decision = client.act(three_degrees)
        assert (decision.source, decision.reason, decision.q_values) == (
            "fallback",
            "out-of-range",
            (),
        )
        assert "pole_angle is 3 rad" in client.last_error
        assert client.act_batch([STATE])[0].source == "policy"
        assert [row.reason for row in client.act_batch([STATE, three_degrees])] == (
            ["out-of-range"] * 2
        )


def test_a_state_that_the_service_refuses_is_a_fallback_with_its_reason(
    make: Make, transport: str, port: int
) -> None:
    with make(
        f"http://127.0.0.1:{port}", transport=transport, deadline=PATIENT, fallback=0
    ) as client:
        assert client.act((3e38, 3e38, 3e38, 3e38)).reason == "refused"
        assert client.act(STATE).source == "policy"


@pytest.mark.parametrize(
    ("fault", "reasons"),
    [
        ("delay", {"deadline"}),
        ("drop", {"deadline"}),
        ("silent", {"deadline"}),
        ("half", {"deadline"}),
        ("stale", {"deadline"}),
        ("flood", {"deadline", "invalid-response"}),
        ("invalid", {"invalid-response"}),
        ("reset", {"disconnected"}),
    ],
)
def test_a_fault_is_a_fallback_in_time_and_the_policy_is_back_after_it(
    make: Make, transport: str, proxy: FaultyProxy, fault: Fault, reasons: set[str]
) -> None:
    with make(proxy.address, transport=transport, deadline=SHORT, fallback=0) as client:
        wait_for(lambda: client.act(STATE).source == "policy")
        proxy.delay = 3 * SHORT
        proxy.fault = fault
        started = time.monotonic()
        first = client.act(STATE)
        assert time.monotonic() - started < 5 * SHORT
        assert first.source == "fallback"
        assert first.reason in reasons
        for _ in range(2):
            # A flood ends with the connection that it came on, and the next one may bring an
            # answer at once.
            assert client.act(STATE).source == "fallback" or fault == "flood"
        assert time.monotonic() - started < 15 * SHORT
        proxy.fault = "none"
        wait_for(lambda: client.act(LEFT).source == "policy")
        # Whatever was still on its way belonged to the other state.
        for _ in range(5):
            decision = client.act(LEFT)
            assert decision.source == "fallback" or decision.q_values[0] > decision.q_values[1]
        counters = client.counters()
        assert counters.deadline_misses == counters.fallbacks.get("deadline", 0)
        assert counters.deadline_misses > 0 or fault in ("invalid", "reset", "flood")


def test_a_late_answer_is_thrown_away_and_the_right_one_is_waited_for(
    make: Make, transport: str, proxy: FaultyProxy
) -> None:
    with make(proxy.address, transport=transport, deadline=PATIENT, fallback=0) as client:
        client.act(STATE)
        proxy.fault = "stale-first"
        for state, action in ((LEFT, 0), (STATE, 1), (LEFT, 0)):
            decision = client.act(state)
            assert (decision.source, decision.action) == ("policy", action)
        assert client.counters().late_answers >= 2


def test_an_answer_after_its_deadline_is_not_taken_for_the_next(
    make: Make, transport: str, proxy: FaultyProxy
) -> None:
    with make(proxy.address, transport=transport, deadline=SHORT, fallback=0) as client:
        wait_for(lambda: client.act(LEFT).source == "policy")
        proxy.fault, proxy.delay = "delay", 1.5 * SHORT
        assert client.act(LEFT).reason == "deadline"
        proxy.fault = "none"
        wait_for(lambda: client.act(STATE).source == "policy")
        assert client.act(STATE).q_values != client.act(LEFT).q_values
        assert client.counters().late_answers >= 1
        assert client.counters().reconnects == 0


def test_a_killed_service_is_found_again_when_it_is_back(make: Make, transport: str) -> None:
    chosen = free_port()
    with make(
        f"http://127.0.0.1:{chosen}", transport=transport, deadline=SHORT, fallback=0
    ) as client:
        assert client.act(STATE).reason == "disconnected"
        with service(chosen) as process:
            wait_for(lambda: client.act(STATE).source == "policy")
            process.kill()
            process.wait()
            assert client.act(STATE).reason == "disconnected"
        with service(chosen):
            wait_for(lambda: client.act(STATE).source == "policy")
        assert client.counters().reconnects >= 1


def test_a_stalled_service_is_a_missed_deadline_and_nothing_piles_up(
    make: Make, transport: str
) -> None:
    chosen = free_port()
    with (
        service(chosen) as process,
        make(
            f"http://127.0.0.1:{chosen}", transport=transport, deadline=SHORT, fallback=0
        ) as client,
    ):
        wait_for(lambda: client.act(STATE).source == "policy")
        os.kill(process.pid, signal.SIGSTOP)
        try:
            reasons = {client.act(STATE).reason for _ in range(6)}
        finally:
            os.kill(process.pid, signal.SIGCONT)
        assert "deadline" in reasons
        wait_for(lambda: client.act(LEFT).source == "policy")
        assert client.act(LEFT).action == 0


@pytest.mark.parametrize("connections", [1, 3])
def test_threads_share_a_client_and_each_gets_its_own_answer(
    transport: Literal["http", "stream"], port: int, connections: int
) -> None:
    address = f"http://127.0.0.1:{port}"
    with PolicyClient(
        address, transport=transport, deadline=10.0, fallback=0, connections=connections
    ) as client:
        states = [(0.0, 0.0, angle / 1_000, 0.0) for angle in range(-100, 100, 25)]
        expected = [decision.q_values for decision in client.act_batch(states)]
        wrong: list[object] = []

        def ask(row: int) -> None:
            for _ in range(30):
                decision = client.act(states[row])
                if decision.q_values != expected[row]:
                    wrong.append(decision)

        threads = [threading.Thread(target=ask, args=(row,)) for row in range(len(states))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert client.counters().answers == 30 * len(states) + len(states)


def test_tasks_share_a_client_and_a_cancelled_one_harms_nobody(
    transport: Literal["http", "stream"], port: int
) -> None:
    async def program() -> None:
        async with AsyncPolicyClient(
            f"http://127.0.0.1:{port}",
            transport=transport,
            deadline=10.0,
            fallback=0,
            connections=2,
        ) as client:
            assert [
                decision.action
                for decision in await asyncio.gather(
                    *(client.act(state) for state in [STATE, LEFT] * 20)
                )
            ] == [
                1,
                0,
            ] * 20
            for _ in range(5):
                task = asyncio.create_task(client.act(STATE))
                await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert (await client.act(LEFT)).action == 0

    asyncio.run(program())


def test_more_callers_than_connections_fall_back_as_pool_timeout(proxy: FaultyProxy) -> None:
    with PolicyClient(proxy.address, deadline=0.3, fallback=0) as client:
        wait_for(lambda: client.act(STATE).source == "policy")
        proxy.fault = "drop"
        long = threading.Thread(target=lambda: client.act_batch([STATE], deadline=1.0))
        long.start()
        time.sleep(0.05)
        assert client.act(STATE).reason == "pool-timeout"
        long.join()


def test_a_closed_client_falls_back(make: Make, transport: str, port: int) -> None:
    with make(
        f"http://127.0.0.1:{port}", transport=transport, deadline=PATIENT, fallback=1
    ) as client:
        client.act(STATE)
        client.close()
        decision = client.act(STATE)
        assert (decision.reason, decision.action) == ("closed", 1)


def test_a_client_that_is_closed_while_it_connects_leaves_nothing_open(
    make: Make, transport: str
) -> None:
    # An unclosed connection would be a ResourceWarning, and warnings are errors here.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for _ in range(3):
            with make(
                f"http://127.0.0.1:{silent.getsockname()[1]}",
                transport=transport,
                deadline=0.01,
                fallback=0,
            ) as client:
                assert client.act(STATE).source == "fallback"
    gc.collect()


def test_a_closed_client_leaves_no_thread_and_no_socket(port: int) -> None:
    threads, descriptors = threading.active_count(), len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - pathlib's own listing opens one more
    for transport in ("http", "stream"):
        for _ in range(5):
            with PolicyClient(
                f"http://127.0.0.1:{port}", transport=transport, deadline=PATIENT, fallback=0
            ) as client:
                client.act(STATE)
                client.ready()
    assert threading.active_count() == threads
    assert len(os.listdir("/proc/self/fd")) == descriptors  # noqa: PTH208 - as above


def test_a_program_with_many_open_files_is_answered_too(
    transport: Literal["http", "stream"], port: int
) -> None:
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, max(limit, 2_048)), most))
    held = [
        os.dup(0) for _ in range(1_100)
    ]  # from here on a socket's number is more than select() takes
    try:
        with PolicyClient(
            f"http://127.0.0.1:{port}", transport=transport, deadline=PATIENT, fallback=0
        ) as client:
            assert client.act(STATE).source == "policy"
        with PolicyClient(
            f"http://127.0.0.1:{free_port()}", transport=transport, deadline=SHORT, fallback=0
        ) as client:
            assert client.act(STATE).reason == "disconnected"
    finally:
        for descriptor in held:
            os.close(descriptor)


def test_a_key_is_sent_with_every_request() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with PolicyClient(
            f"http://127.0.0.1:{listener.getsockname()[1]}",
            deadline=PATIENT,
            fallback=0,
            key="secret",
        ) as client:
            calling = threading.Thread(target=client.act, args=(STATE,))
            calling.start()
            connection, _ = listener.accept()
            with connection:
                assert b"\r\nAuthorization: Bearer secret\r\n" in connection.recv(65_536)
            calling.join()
        assert "secret" not in repr(client)


@given(st.lists(st.integers(1, 400), max_size=20), st.integers(1, 3))
def test_answers_are_the_same_however_their_bytes_arrive(cuts: list[int], count: int) -> None:
    bodies = [
        json.dumps({"seq": number, "pad": "x" * (60 * number)}).encode() for number in range(count)
    ]
    http = b"".join(
        b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nx: y\r\n\r\n%b" % (len(body), body)
        for body in bodies
    )
    frames = b"".join(
        b"\x81"
        + (bytes([len(body)]) if len(body) < 126 else b"\x7e" + len(body).to_bytes(2))
        + body
        for body in bodies
    )
    stream = WebSocketProtocol("h", None)
    stream.is_open = True
    for protocol, whole in ((Http11Protocol("h", None), http), (stream, frames)):
        rest = whole
        for cut in cuts:
            protocol.receive(rest[:cut])
            rest = rest[cut:]
        protocol.receive(rest)
        assert [reply.body for reply in protocol.replies] == bodies


@given(st.lists(st.binary(max_size=60), max_size=6), st.booleans())
def test_bytes_of_any_kind_are_an_answer_or_a_protocol_error(
    chunks: list[bytes], is_open: bool
) -> None:
    for protocol in (Http11Protocol("h", None), WebSocketProtocol("h", None)):
        if isinstance(protocol, WebSocketProtocol):
            protocol.is_open = is_open
        try:
            for chunk in chunks:
                protocol.receive(chunk)
        except ProtocolError:
            pass


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 20_000,
        b"HTTP/2 200\r\n\r\n",
    ],
)
def test_an_answer_beyond_the_limits_is_refused(answer: bytes) -> None:
    with pytest.raises(ProtocolError):
        Http11Protocol("h", None).receive(answer)


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"{}",
        b'{"action":1,"seq":SEQ}',
        b'{"action":2,"q_values":[1,2],"out_of_range":[],"digest":"d","seq":SEQ}',
        b'{"action":true,"q_values":[1,2],"out_of_range":[],"digest":"d","seq":SEQ}',
        b'{"action":1,"q_values":[1,NaN],"out_of_range":[],"digest":"d","seq":SEQ}',
        b'{"action":1,"q_values":[1,2],"out_of_range":[],"digest":"d"}',
        b'{"action":1,"q_values":[1,2],"out_of_range":[],"digest":"d","seq":9223372036854775807}',
        b"[" * 100_000,
        b"<html>",
    ],
)
def test_what_is_no_answer_of_this_service_never_decides(body: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with PolicyClient(
            f"http://127.0.0.1:{listener.getsockname()[1]}", deadline=PATIENT, fallback=0
        ) as client:
            decisions: list[Decision] = []
            calling = threading.Thread(target=lambda: decisions.append(client.act(STATE)))
            calling.start()
            connection, _ = listener.accept()
            with connection:
                asked = json.loads(connection.recv(65_536).partition(b"\r\n\r\n")[2])
                reply = body.replace(b"SEQ", str(asked["seq"]).encode())
                connection.sendall(
                    b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(reply), reply)
                )
                calling.join()
        assert (decisions[0].source, decisions[0].reason) == ("fallback", "invalid-response")


def test_the_client_needs_the_standard_library_alone() -> None:
    for file in (ROOT / "client").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            for name in names:
                assert name.split(".")[0] in sys.stdlib_module_names | {"upright_client"}


def test_a_connection_that_the_service_ended_while_idle_is_renewed(start: Start) -> None:
    with (
        start("--keep-alive", "1") as address,
        PolicyClient(address, deadline=PATIENT, fallback=0) as client,
    ):
        assert client.act(STATE).source == "policy"
        time.sleep(2.5)  # the service looks for idle connections once a second
        assert client.act(STATE).source == "policy"
        assert client.counters().reconnects == 1
