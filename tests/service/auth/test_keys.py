"""Which key is enough for which endpoint, by every protocol; and that no key is ever shown."""

import contextlib
import hmac
import json
import os
import queue
import re
import signal
import stat
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, get_args

import httpx2
import pytest
from starlette.testclient import TestClient, WebSocketDenialResponse
from upright_client import NoAnswerError, PolicyClient
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from models.bundle import Bundle
from service import endpoints
from service.auth import keys
from service.auth.key_file import add_key, load_keys, read_entries
from service.auth.keys import KeysError
from service.endpoints import SCOPES, Scope
from service.inference.loading import load
from service.server.application import create_application
from service.state import ServiceState
from tests.support.clients import PATIENT, STATE, InLoop, Make
from tests.support.metrics import samples
from tests.support.project import ROOT
from tests.support.raw_http import BothPaths, ask, both_paths, request
from tests.support.service import (
    Start,
    free_port,
    refused,
    run_program,
    settings,
    wait_for,
)

with warnings.catch_warnings():
    warnings.simplefilter(
        "ignore"
    )  # what other people's modules warn of when they are imported is no claim of ours
    import grpc
    import tritonclient.grpc
    import tritonclient.http
    from tritonclient.utils import InferenceServerException

BODY = b'{"state":[0,0,0.05,0]}'
INFER_BODY = b'{"inputs":[{"name":"state","shape":[1,4],"datatype":"FP32","data":[0,0,0.05,0]}]}'
ENDPOINTS: list[tuple[str, str, Scope]] = [
    ("POST", "/act", "act"),
    ("POST", "/act/batch", "act"),
    ("GET", "/model", "act"),
    ("GET", "/metrics", "metrics"),
    ("GET", "/v2", "act"),
    ("GET", "/v2/models/cartpole-dqn", "act"),
    ("GET", "/v2/models/cartpole-dqn/versions/1/config", "act"),
    ("POST", "/v2/models/cartpole-dqn/infer", "act"),
    ("POST", "/v2/repository/index", "act"),
    ("POST", "/v2/repository/models/cartpole-dqn/load", "admin"),
    ("POST", "/v2/repository/models/cartpole-dqn/unload", "admin"),
    ("POST", "/v2//repository/models/cartpole-dqn/unload/", "admin"),
    ("POST", "/model/rollback", "admin"),
    ("GET", "/shadow", "admin"),
    ("POST", "/shadow/promote", "admin"),
    ("GET", "/an/endpoint/that/is/not/in/the/table", "admin"),
]
MODEL = "/v2/models/cartpole-dqn"
OPEN = [
    "/health/live",
    "/health/ready",
    "/v2/health/live",
    "/v2/health/ready",
    f"{MODEL}/ready",
    "/docs",
    "/openapi.json",
]
MADE: dict[str, str] = {scope: f"upright_the-key-for-{scope}" for scope in SCOPES} | {
    "both": "upright_the-key-for-two"
}


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def entry(name: str, key: str, *scopes: str) -> str:
    digest = sha256(key.encode()).hexdigest()
    return f'[[key]]\nname = "{name}"\nscopes = {json.dumps(scopes)}\nsha256 = "{digest}"\n'


def written(path: Path) -> Path:
    path.write_text(
        "".join(
            entry(name, key, *(["act", "metrics"] if name == "both" else [name]))
            for name, key in MADE.items()
        )
    )
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return written(tmp_path / "keys.toml")


@pytest.fixture
def client(committed: Bundle, file: Path) -> Iterator[TestClient]:
    app = create_application(
        settings(keys=file), ServiceState(load(committed, "onnx"), keys=load_keys(file))
    )
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def both(committed: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BothPaths]:
    file = written(tmp_path_factory.mktemp("keys") / "keys.toml")
    with both_paths(
        settings(keys=file), ServiceState(load(committed, "onnx"), keys=load_keys(file))
    ) as both:
        yield both


@pytest.mark.parametrize(("method", "path", "scope"), ENDPOINTS)
def test_an_endpoint_answers_a_key_of_its_scope_and_no_other(
    client: TestClient, method: str, path: str, scope: Scope
) -> None:
    def ask(headers: dict[str, str]) -> Any:
        return client.request(
            method, path, headers=headers, content=BODY if method == "POST" else None
        )

    refusals = {
        401: [{}, bearer("upright_guessed"), bearer(""), {"Authorization": f"Basic {MADE[scope]}"}]
    }
    refusals[403] = [bearer(MADE[other]) for other in SCOPES if other != scope]
    for status, presented in refusals.items():
        for headers in presented:
            answer = ask(headers)
            assert answer.status_code == status
            assert answer.headers["www-authenticate"].startswith("Bearer ")
            assert answer.headers["x-request-id"]
            body = answer.json()
            if path.startswith("/v2"):
                assert list(body) == ["error"]
                assert f"scope {scope}" in body["error"]
            else:
                assert answer.headers["content-type"] == "application/problem+json"
                assert body["status"] == status
                assert f"scope {scope}" in body["detail"]
    assert ask(bearer(MADE[scope])).status_code not in (401, 403)
    assert ask({"authorization": f"bearer  {MADE[scope]}"}).status_code not in (
        401,
        403,
    )  # a scheme's name has no case (RFC 9110, 11.1)


@pytest.mark.parametrize("path", OPEN)
def test_health_and_description_are_open(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        *OPEN,
        "/v2/models/wrong/ready",
        "/v2/models/wrong/versions/1/ready",
        f"{MODEL}/versions/9/ready",
    ],
)
def test_without_a_key_the_model_is_named_to_nobody_who_does_not_name_it(
    client: TestClient, committed: Bundle, path: str
) -> None:
    text = client.get(path).text
    assert committed.digest not in text
    assert committed.manifest.name not in text or path.startswith(f"{MODEL}/")


def test_a_key_may_have_several_scopes(client: TestClient) -> None:
    assert client.post("/act", content=BODY, headers=bearer(MADE["both"])).status_code == 200
    assert client.get("/metrics", headers=bearer(MADE["both"])).status_code == 200


def test_every_method_of_grpc_is_in_the_table_and_what_changes_the_service_needs_admin() -> None:
    methods = re.findall(
        r"rpc (\w+)\(", (ROOT / "service" / "grpc" / "inference.proto").read_text()
    )
    assert "ModelInfer" in methods
    for method in methods:
        endpoint = endpoints.endpoint_of(f"/inference.GRPCInferenceService/{method}")
        changes = method in ("RepositoryModelLoad", "RepositoryModelUnload")
        assert (endpoint.scope == "admin") is changes


@pytest.mark.parametrize("path", ["/act", "/act/batch", "/v2/models/cartpole-dqn/infer"])
def test_the_fast_path_answers_the_right_key_and_leaves_every_other_to_asgi(
    committed: Bundle, file: Path, path: str
) -> None:
    fast_path = create_application(
        settings(keys=file), ServiceState(load(committed, "onnx"), keys=load_keys(file))
    ).fast_path
    body = {"/act": BODY, "/act/batch": b'{"states":[[0,0,0.05,0]]}'}.get(path, INFER_BODY)
    endpoint = fast_path.find(path.encode())
    assert endpoint is not None
    written: list[bytes] = []

    def answered(headers: dict[bytes, bytes]) -> bool:
        return fast_path.allows(endpoint, headers) and fast_path.answer(
            endpoint, headers, body, 0.0, b"", lambda answer, _: written.append(answer)
        )

    right, wrong = f"Bearer {MADE['act']}".encode(), f"Bearer {MADE['admin']}".encode()
    assert answered({b"authorization": right})
    for headers in (
        {},
        {b"authorization": wrong},
        {b"authorization": b"Bearer x"},
        {b"authorization": b""},
    ):
        assert not answered(headers)
    assert len(written) == 1


@pytest.mark.parametrize("presented", [*MADE.values(), "upright_guessed", ""])
def test_every_known_hash_is_compared_whichever_key_is_presented(
    file: Path, presented: str
) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def same(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return hmac.compare_digest(one, other)

    load_keys(file, same).refusal(f"Bearer {presented}".encode(), "act")
    assert compared == [
        (sha256(presented.encode()).digest(), sha256(key.encode()).digest())
        for key in MADE.values()
    ]


def test_hashes_are_compared_in_constant_time_unless_a_test_says_otherwise(file: Path) -> None:
    assert load_keys(file)._compare is hmac.compare_digest


def test_refusals_are_counted_by_what_was_wrong(client: TestClient) -> None:
    for headers in ({}, {}, bearer("upright_guessed"), bearer(MADE["admin"])):
        client.post("/act", content=BODY, headers=headers)
    found = samples(client.get("/metrics", headers=bearer(MADE["metrics"])).text)
    assert [found["upright_keys_total", (outcome,)] for outcome in get_args(keys.Refusal)] == [
        2,
        1,
        1,
    ]
    assert found["upright_requests_total", ("/act", "401")] == 3
    assert found["upright_requests_total", ("/act", "403")] == 1


@pytest.mark.parametrize(
    ("headers", "status"),
    [({}, 401), (bearer("upright_guessed"), 401), (bearer(MADE["metrics"]), 403)],
)
def test_a_stream_is_refused_at_its_handshake(
    client: TestClient, headers: dict[str, str], status: int
) -> None:
    with (
        pytest.raises(WebSocketDenialResponse) as refused_stream,
        client.websocket_connect("/act/stream", headers=headers),
    ):
        pass
    assert refused_stream.value.status_code == status
    assert refused_stream.value.json()["status"] == status


def test_a_key_that_is_taken_away_closes_its_stream_at_the_next_message(
    client: TestClient, file: Path
) -> None:
    with client.websocket_connect("/act/stream", headers=bearer(MADE["act"])) as stream:
        stream.send_text(BODY.decode())
        assert stream.receive_json()["action"] == 1
        file.write_text(entry("other", "upright_other", "act"))
        client.app.app._service_state.keys.reload()  # type: ignore[attr-defined] # ours
        stream.send_text(BODY.decode())
        assert stream.receive()["code"] == 1008


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("key = [", "is no TOML"),
        ("key = " + "[" * 3_000, "is no TOML"),
        ("key = " + "1" * 5_000, "is no TOML"),
        ("[[keys]]", "keys: there is no field of this name"),
        (
            entry("loop", "k", "act") + entry("loop", "l", "act"),
            "key 'loop' has the same name as another one",
        ),
        (
            entry("loop", "k", "act") + entry("pool", "k", "act"),
            "key 'pool' has the same sha256 as another one",
        ),
        (
            entry("loop", "k", "drive"),
            "key 'loop', scopes: input should be 'act', 'admin' or 'metrics'",
        ),
        (entry("loop", "k"), "key 'loop', scopes: "),
        (entry("a loop", "k", "act"), "key 1 of the file, name: "),
        (
            entry("loop", "k", "act") + "expires = 1",
            "key 'loop', expires: there is no field of this name",
        ),
        ('[[key]]\nname = "loop"\nscopes = ["act"]', "key 'loop', sha256: is missing"),
        (
            '[[key]]\nname = "loop"\nscopes = ["act"]\nsha256 = "upright_secret"',
            "key 'loop', sha256: must be the 64 small hexadecimal digits",
        ),
        ('[[key]]\nname = "loop"\nscopes = ["act"]\nsha256 = 7', "key 'loop', sha256: "),
        ("key = 7", "key: "),
        ("key = [7]", "key 1 of the file: "),
    ],
)
def test_a_file_that_is_wrong_is_refused_by_the_name_of_its_entry(
    tmp_path: Path, text: str, named: str
) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(text)
    with pytest.raises(KeysError) as raised:
        load_keys(file)
    assert str(raised.value).startswith(
        f"{file}: {named}" if named != "is no TOML" else f"{file}: is no TOML"
    )
    assert "secret" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_of_keys_that_is_not_there_stops_the_start_with_one_line(tmp_path: Path) -> None:
    code, complaint = refused("--keys", str(tmp_path / "absent.toml"))
    assert (code, complaint) == (
        1,
        f"upright: --keys {tmp_path / 'absent.toml'}: cannot be read (No such file or directory)\n",
    )


def test_a_key_is_shown_once_and_its_hash_is_kept_in_a_file_of_its_owner_alone(
    tmp_path: Path,
) -> None:
    file = tmp_path / "keys.toml"
    made = run_program("key", "loop-7", "--scope", "act", "--scope", "metrics", "--keys", str(file))
    assert made.returncode == 0, made.stderr
    key = made.stdout.strip()
    assert re.fullmatch(r"upright_[A-Za-z0-9_-]{43}", key)
    assert key not in made.stderr
    assert key not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    known = load_keys(file)
    assert [known.refusal(f"Bearer {key}".encode(), scope) for scope in SCOPES] == [
        None,
        "scope",
        None,
    ]
    assert list(tmp_path.iterdir()) == [file]


def test_adding_a_key_keeps_what_stands_in_the_file_and_its_mode(file: Path) -> None:
    file.write_text("# who has which key\n" + file.read_text().rstrip("\n"))
    file.chmod(0o640)
    add_key(file, "another", ["act"], "0" * 64)
    assert file.read_text().startswith("# who has which key\n")
    assert [found.name for found in read_entries(file)] == [*MADE, "another"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("act", "key 'act' has the same name"),
        ("a\nb", "no name for a key"),
        ('x"', "no name"),
        ("", "no name"),
    ],
)
def test_a_key_that_would_spoil_the_file_is_not_added(file: Path, name: str, named: str) -> None:
    before = file.read_text()
    with pytest.raises(KeysError, match=named):
        add_key(file, name, ["act"], "0" * 64)
    assert file.read_text() == before
    assert list(file.parent.iterdir()) == [file]


def test_a_key_is_not_added_to_a_file_that_is_broken_or_cannot_be_written(tmp_path: Path) -> None:
    broken = tmp_path / "keys.toml"
    broken.write_text("key = [")
    for file, named in (
        (broken, f"{broken}: is no TOML"),
        (tmp_path / "absent" / "keys.toml", "No such file or directory"),
    ):
        made = run_program("key", "loop", "--scope", "act", "--keys", str(file))
        assert (made.returncode, made.stdout, made.stderr.count("\n")) == (1, "", 1)
        assert named in made.stderr
    assert broken.read_text() == "key = ["


def test_keys_that_are_added_at_the_same_time_are_all_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    with ThreadPoolExecutor(8) as pool:
        list(
            pool.map(
                lambda number: add_key(file, f"k{number}", ["act"], f"{number:064x}"), range(40)
            )
        )
    assert {found.name for found in read_entries(file)} == {f"k{number}" for number in range(40)}


@dataclass
class Running:
    """A service with keys, by all of its protocols."""

    address: str
    grpc: str
    process: int
    log: Path


STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"


@pytest.fixture
def running(start: Start, file: Path, tmp_path: Path) -> Iterator[Running]:
    port, log = free_port(), tmp_path / "service.log"
    with start("--grpc-port", str(port), "--keys", str(file)) as address:
        wait_for(lambda: "startup complete" in log.read_text())
        process = int(re.findall(r"Started server process \[(\d+)\]", log.read_text())[0])
        yield Running(address, f"127.0.0.1:{port}", process, log)


def code(channel: grpc.Channel, method: str, key: str | None) -> grpc.StatusCode:
    metadata = () if key is None else (("authorization", f"Bearer {key}"),)
    try:
        channel.unary_unary(method)(b"", metadata=metadata, timeout=PATIENT)
    except grpc.RpcError as error:
        found: grpc.StatusCode = error.code()
        return found
    return grpc.StatusCode.OK


def test_grpc_asks_for_the_same_keys(running: Running) -> None:
    service = "/inference.GRPCInferenceService"
    unauthenticated, denied = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED
    with grpc.insecure_channel(running.grpc) as channel:
        for method, scope in (
            ("ServerMetadata", "act"),
            ("ModelInfer", "act"),
            ("RepositoryModelLoad", "admin"),
        ):
            for presented in (None, "upright_guessed", ""):
                assert code(channel, f"{service}/{method}", presented) == unauthenticated
            for other in set(SCOPES) - {scope}:
                assert code(channel, f"{service}/{method}", MADE[other]) == denied
            assert code(channel, f"{service}/{method}", MADE[scope]) not in (
                unauthenticated,
                denied,
            )
        assert code(channel, "/another.Service/Method", MADE["act"]) == denied
        for asked in (b"\x0a\x05wrong", b""):  # a name, as protobuf writes it, and none
            with pytest.raises(grpc.RpcError) as refusal:
                channel.unary_unary(f"{service}/ModelReady")(asked, timeout=PATIENT)
            assert refusal.value.code() == grpc.StatusCode.NOT_FOUND
            assert "cartpole" not in refusal.value.details()
        for method in (f"{service}/ServerReady", "/grpc.health.v1.Health/Check"):
            assert code(channel, method, None) == grpc.StatusCode.OK
        for kind in (channel.stream_stream, channel.stream_unary):
            with pytest.raises(grpc.RpcError) as raised:
                list(kind("/another.Service/Method")(iter([b""]), timeout=PATIENT))
            assert raised.value.code() == unauthenticated


@pytest.mark.parametrize("kind", ["http", "grpc"])
def test_tritonclient_can_present_a_key(running: Running, kind: str) -> None:
    module, place = (
        (tritonclient.http, running.address.removeprefix("http://"))
        if kind == "http"
        else (tritonclient.grpc, running.grpc)
    )
    with contextlib.closing(module.InferenceServerClient(place)) as client:
        assert client.is_server_ready()
        with pytest.raises(InferenceServerException, match="needs a key with the scope act"):
            client.get_model_metadata("cartpole-dqn")
        assert client.get_model_metadata(
            "cartpole-dqn", headers={"authorization": f"Bearer {MADE['act']}"}
        )


@pytest.mark.parametrize("make", [PolicyClient, InLoop])
@pytest.mark.parametrize("transport", ["http", "stream"])
def test_the_client_is_answered_by_its_key_and_falls_back_as_denied_without(
    running: Running, make: Make, transport: str
) -> None:
    with make(
        running.address, transport=transport, deadline=PATIENT, fallback=0, key=MADE["act"]
    ) as client:
        assert client.act(STATE).source == "policy"
        assert client.act_batch([STATE])[0].source == "policy"
        assert client.model().backend == "onnx"
    for key in (None, "upright_guessed", MADE["metrics"]):
        with make(
            running.address, transport=transport, deadline=PATIENT, fallback=1, key=key
        ) as client:
            decision = client.act(STATE)
            assert (decision.source, decision.reason, decision.action) == ("fallback", "denied", 1)
            assert "needs a key with the scope act" in client.last_error
            assert client.act_batch([STATE])[0].reason == "denied"
            assert client.ready()
            with pytest.raises(
                NoAnswerError, match=r"denied: status 40[13]: /model needs a key with the scope act"
            ):
                client.model()
            assert client.counters().fallbacks == {"denied": 2}


def test_the_client_is_answered_again_once_its_key_is_known(running: Running, file: Path) -> None:
    before = file.read_text()
    transports: list[Literal["http", "stream"]] = ["http", "stream"]
    for transport in transports:
        with PolicyClient(
            running.address, transport=transport, deadline=PATIENT, fallback=0, key="upright_late"
        ) as client:
            assert client.act(STATE).reason == "denied"
            file.write_text(before + entry("late", "upright_late", "act"))
            os.kill(running.process, signal.SIGHUP)
            wait_for(lambda client=client: client.act(STATE).source == "policy")  # type: ignore[misc]
            file.write_text(before)
            os.kill(running.process, signal.SIGHUP)
            wait_for(lambda client=client: client.act(STATE).reason == "denied")  # type: ignore[misc]


def test_sighup_brings_new_keys_and_a_broken_file_keeps_the_old_ones(
    running: Running, file: Path
) -> None:
    def status(key: str) -> int:
        return httpx2.post(f"{running.address}/act", content=BODY, headers=bearer(key)).status_code

    assert (status(MADE["act"]), status("upright_new")) == (200, 401)
    file.write_text(entry("new", "upright_new", "act"))
    os.kill(running.process, signal.SIGHUP)
    wait_for(lambda: status("upright_new") == 200)
    assert status(MADE["act"]) == 401
    file.write_text("key = [")
    os.kill(running.process, signal.SIGHUP)
    wait_for(lambda: "the keys stay as they were" in running.log.read_text())
    assert status("upright_new") == 200


def test_a_stream_of_the_running_service_ends_when_its_key_is_taken_away(
    running: Running, file: Path
) -> None:
    url = f"{running.address.replace('http', 'ws')}/act/stream"
    with (
        connect(url, additional_headers=bearer(MADE["act"])) as taken,
        connect(url, additional_headers=bearer(MADE["both"])) as kept,
    ):
        for stream in (taken, kept):
            stream.send(BODY)
            assert json.loads(stream.recv(PATIENT))["action"] == 1
        file.write_text(entry("both", MADE["both"], "act"))
        os.kill(running.process, signal.SIGHUP)
        wait_for(lambda: "Keys were read again" in running.log.read_text())
        for stream in (taken, kept):
            stream.send(BODY)
        with pytest.raises(ConnectionClosed) as closed:
            taken.recv(PATIENT)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1008
        assert json.loads(kept.recv(PATIENT))["action"] == 1


def test_a_stream_over_grpc_is_refused_before_its_first_message(running: Running) -> None:
    never = iter(queue.Queue[bytes]().get, None)  # a caller that waits for its first answer
    with grpc.insecure_channel(running.grpc) as channel:
        for presented, expected in (
            (None, grpc.StatusCode.UNAUTHENTICATED),
            (MADE["metrics"], grpc.StatusCode.PERMISSION_DENIED),
        ):
            metadata = () if presented is None else (("authorization", f"Bearer {presented}"),)
            call = channel.stream_stream(STREAM)(never, metadata=metadata, timeout=PATIENT)
            with pytest.raises(grpc.RpcError) as refused:
                next(call)
            assert refused.value.code() == expected
            assert "needs a key with the scope act" in refused.value.details()


def test_a_stream_over_grpc_ends_when_its_key_is_taken_away(running: Running, file: Path) -> None:
    asked: dict[str, queue.Queue[bytes]] = {name: queue.Queue() for name in ("act", "both")}
    with grpc.insecure_channel(running.grpc) as channel:
        streams = {
            name: channel.stream_stream(STREAM)(
                iter(messages.get, b"end"),
                metadata=(("authorization", f"Bearer {MADE[name]}"),),
                timeout=PATIENT,
            )
            for name, messages in asked.items()
        }
        for name, stream in streams.items():
            asked[name].put(b"")
            assert b"there is no model" in next(stream)
        file.write_text(entry("both", MADE["both"], "act"))
        os.kill(running.process, signal.SIGHUP)
        wait_for(lambda: "Keys were read again" in running.log.read_text())
        for messages in asked.values():
            messages.put(b"")
        with pytest.raises(grpc.RpcError) as ended:
            next(streams["act"])
        assert ended.value.code() == grpc.StatusCode.UNAUTHENTICATED
        assert b"there is no model" in next(streams["both"])
        for messages in asked.values():
            messages.put(b"end")


def test_no_key_is_ever_logged(running: Running, file: Path) -> None:
    presented = [*MADE.values(), "upright_guessed"]
    with grpc.insecure_channel(running.grpc) as channel:
        for key in presented:
            for method, path, _ in ENDPOINTS:
                httpx2.request(
                    method, f"{running.address}{path}", headers=bearer(key), content=BODY
                )
            with (
                contextlib.suppress(InvalidStatus, ConnectionClosed),
                connect(
                    f"{running.address.replace('http', 'ws')}/act/stream",
                    additional_headers=bearer(key),
                ) as stream,
            ):
                stream.send("{")
                stream.recv(PATIENT)
            for method in ("ModelInfer", "RepositoryModelLoad"):
                code(channel, f"/inference.GRPCInferenceService/{method}", key)
    file.write_text(f'[[key]]\nname = "loop"\nscopes = ["act"]\nsha256 = "{MADE["act"]}"\n')
    os.kill(running.process, signal.SIGHUP)
    wait_for(lambda: "the keys stay as they were" in running.log.read_text())
    log = running.log.read_text()
    assert "Keys are on, from" in log
    assert "Traceback" not in log
    assert (
        "ASGI callable" not in log
    )  # uvicorn's word for a handshake that it thinks was left unanswered
    for key in presented:
        assert key not in log
        assert sha256(key.encode()).hexdigest() not in log


def test_the_log_says_at_the_start_that_keys_are_off(start: Start, tmp_path: Path) -> None:
    log = tmp_path / "service.log"
    with start():
        wait_for(lambda: "startup complete" in log.read_text())
        assert log.read_text().count("Keys are off") == 1
        assert "[warning" not in log.read_text()


def test_a_file_of_keys_that_others_can_write_is_warned_of(
    start: Start, file: Path, tmp_path: Path
) -> None:
    for mode, told in ((0o640, 0), (0o644, 0), (0o660, 1), (0o606, 1)):
        file.chmod(mode)
        with start("--keys", str(file)):
            log = (tmp_path / "service.log").read_text()
        assert log.count(f"{file} can be written by others than its owner") == told


def test_keys_that_are_off_on_an_address_of_the_network_are_warned_of(
    start: Start, tmp_path: Path
) -> None:
    with start("--host", "0.0.0.0"):  # noqa: S104 - the claim is about it
        wait_for(lambda: "startup complete" in (tmp_path / "service.log").read_text())
        log = (tmp_path / "service.log").read_text()
    lines = [line for line in log.splitlines() if "Keys are off" in line]
    assert ["warning" in line.lower() for line in lines] == [True]


def test_keys_without_tls_on_an_address_of_the_network_are_warned_of(
    start: Start, file: Path, tmp_path: Path
) -> None:
    log = tmp_path / "service.log"
    with start("--keys", str(file)):
        wait_for(lambda: "startup complete" in log.read_text())
        assert "travel in clear" not in log.read_text()
    with start("--host", "0.0.0.0", "--keys", str(file)):  # noqa: S104 - the claim is about it
        wait_for(lambda: "startup complete" in log.read_text())
        assert "Keys travel in clear to 0.0.0.0" in log.read_text()


def test_every_worker_asks_for_keys(start: Start, file: Path, tmp_path: Path) -> None:
    log = tmp_path / "service.log"
    with start("--workers", "2", "--keys", str(file)) as address:
        wait_for(lambda: log.read_text().count("startup complete") == 2)

        def statuses(key: str) -> set[int]:
            return {
                httpx2.post(f"{address}/act", content=BODY, headers=bearer(key)).status_code
                for _ in range(10)
            }

        assert (statuses("upright_new"), statuses(MADE["act"])) == ({401}, {200})
        file.write_text(entry("new", "upright_new", "act"))
        os.kill(
            int(re.findall(r"Started parent process \[(\d+)\]", log.read_text())[0]), signal.SIGHUP
        )
        wait_for(lambda: log.read_text().count("Keys were read again") == 2)
        assert (statuses("upright_new"), statuses(MADE["act"])) == ({200}, {401})


@pytest.mark.parametrize("path", ["/act", "/act/batch"])
@pytest.mark.parametrize("key", [None, "", "upright_guessed", *MADE.values()])
def test_no_byte_differs_between_the_paths_whatever_key_is_presented(
    both: BothPaths, path: str, key: str | None
) -> None:
    headers = [] if key is None else [(b"Authorization", f"Bearer {key}".encode())]
    for body in (BODY, b'{"states":[[0,0,0.05,0]]}', b"{"):
        sent = request("POST", path, headers, [body])
        fast, asgi = ask(both.fast, sent), ask(both.asgi, sent)
        assert fast == asgi
        assert (fast[0].status in (401, 403)) is (key not in (MADE["act"], MADE["both"]))


def test_of_two_keys_the_first_one_counts_on_either_path(both: BothPaths) -> None:
    right, wrong = (
        (b"authorization", f"Bearer {key}".encode()) for key in (MADE["act"], "upright_guessed")
    )
    for headers, status in (([right, wrong], 200), ([wrong, right], 401)):
        sent = request("POST", "/act", headers, [BODY])
        assert [ask(port, sent)[0].status for port in (both.fast, both.asgi)] == [status, status]


def test_with_watch_a_new_key_is_known_without_a_signal(start: Start, file: Path) -> None:
    header = {"authorization": "Bearer upright_new"}
    with start("--keys", str(file), "--watch", "0.1") as address:
        assert httpx2.get(f"{address}/model", headers=header).status_code == 401
        add_key(file, "another", ["act"], sha256(b"upright_new").hexdigest())
        wait_for(lambda: httpx2.get(f"{address}/model", headers=header).status_code == 200, 10)
