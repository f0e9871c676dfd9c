"""The Open Inference Protocol v2 over REST: what it promises, and bodies that break it."""

import asyncio
import gzip
import json
import random
import re
import resource
import shutil
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from models.bundle import Bundle
from service.api.open_inference import protocol
from service.api.open_inference.rest import HEADER_LENGTH
from service.inference.loading import load
from service.server.application import create_application
from service.state import ServiceState
from tests.support.backends import FixedBackend
from tests.support.project import COMMITTED
from tests.support.service import settings

MODEL = "/v2/models/cartpole-dqn"
INFER = f"{MODEL}/infer"
STATES = [[0.0, 0.0, 0.05, 0.0], [0.0, 0.0, -0.05, 0.0]]
RAW = np.array(STATES, "<f4").tobytes()


def asked(**changes: Any) -> dict[str, Any]:
    return {
        "inputs": [{"name": "state", "shape": [2, 4], "datatype": "FP32", "data": STATES} | changes]
    }


def failing_client(committed: Bundle) -> TestClient:
    policy = load(committed, "onnx")
    # The seam of a failure that cannot happen on demand.
    policy._backend = FixedBackend(np.nan, np.nan)
    return TestClient(create_application(settings(), ServiceState(policy)))


def binary(document: dict[str, Any], raw: bytes = RAW, **headers: str) -> dict[str, Any]:
    text = json.dumps(document).encode()
    return {
        "content": text + raw,
        "headers": {HEADER_LENGTH: str(len(text))} | headers,
    }


def in_binary(**changes: Any) -> dict[str, Any]:
    document = asked(parameters={"binary_data_size": len(RAW)} | changes)
    del document["inputs"][0]["data"]
    return document


@pytest.mark.parametrize(
    "path",
    [
        "/v2",
        "/v2/health/live",
        "/v2/health/ready",
        MODEL,
        f"{MODEL}/versions/1",
        f"{MODEL}/ready",
        f"{MODEL}/versions/1/ready",
        f"{MODEL}/config",
    ],
)
def test_what_describes_the_server_answers(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    assert "content-encoding" not in answer.headers
    assert isinstance(answer.json(), dict)


def test_the_metadata_is_the_protocols(client: TestClient) -> None:
    assert set(client.get("/v2").json()) == {"name", "version", "extensions"}
    assert client.get(MODEL).json() == {
        "name": "cartpole-dqn",
        "versions": ["1"],
        "platform": "onnx_onnxv1",
        "properties": {"step_seconds": "0.02"},
        "inputs": [{"name": "state", "datatype": "FP32", "shape": [-1, 4]}],
        "outputs": [
            {"name": "q_values", "datatype": "FP32", "shape": [-1, 2]},
            {"name": "action", "datatype": "INT64", "shape": [-1]},
        ],
    }


@pytest.mark.parametrize(
    "path", [f"{MODEL}/stats", f"{MODEL}/versions/1/stats", "/v2/models/stats"]
)
def test_the_statistics_count_every_inference(client: TestClient, path: str) -> None:
    [before] = client.get(path).json()["model_stats"]
    began = time.time()
    client.post(INFER, json=asked())
    client.post("/act", json={"state": STATES[0]})
    assert client.post(INFER, json={}).status_code == 400

    [after] = client.get(path).json()["model_stats"]
    assert (after["name"], after["version"]) == ("cartpole-dqn", "1")
    assert after["execution_count"] - before["execution_count"] == 2
    assert after["inference_count"] - before["inference_count"] == len(STATES) + 1
    assert began - 0.01 <= after["last_inference"] / 1e3 <= time.time() + 0.01
    success = after["inference_stats"]["success"]
    assert success["count"] == after["execution_count"]
    assert success["ns"] > before["inference_stats"]["success"]["ns"]
    assert after["inference_stats"]["compute_infer"] == success
    assert after["inference_stats"]["fail"] == before["inference_stats"]["fail"]


def test_a_failure_of_the_policy_is_in_the_statistics(committed: Bundle) -> None:
    with failing_client(committed) as client:
        assert client.post(INFER, json=asked()).status_code == 500
        [statistics] = client.get(f"{MODEL}/stats").json()["model_stats"]
    assert statistics["inference_stats"]["fail"]["count"] == 1
    assert statistics["execution_count"] == statistics["last_inference"] == 0


@pytest.mark.parametrize("data", [STATES, [number for state in STATES for number in state]])
@pytest.mark.parametrize("path", [INFER, f"{MODEL}/versions/1/infer"])
def test_infer_answers_as_act_does(
    client: TestClient, path: str, data: object, committed: Bundle
) -> None:
    answer = client.post(path, json=asked(data=data) | {"id": "seven"})
    assert answer.status_code == 200
    body = answer.json()
    acts = [client.post("/act", json={"state": state}).json() for state in STATES]
    assert (body["model_name"], body["model_version"], body["id"]) == ("cartpole-dqn", "1", "seven")
    assert body["parameters"] == {"digest": committed.digest}
    assert body["outputs"] == [
        {
            "name": "q_values",
            "datatype": "FP32",
            "shape": [2, 2],
            "data": [value for act in acts for value in act["q_values"]],
        },
        {
            "name": "action",
            "datatype": "INT64",
            "shape": [2],
            "data": [act["action"] for act in acts],
        },
    ]
    assert "id" not in client.post(path, json=asked()).json()


def test_binary_goes_both_ways_and_each_output_may_choose(client: TestClient) -> None:
    plain = client.post(INFER, json=asked()).json()["outputs"]
    for document, binaries in (
        (in_binary(), set()),
        (in_binary() | {"parameters": {"binary_data_output": True}}, {"q_values", "action"}),
        (
            in_binary()
            | {
                "outputs": [
                    {"name": "action", "parameters": {"binary_data": True}},
                    {"name": "q_values"},
                ]
            },
            {"action"},
        ),
        (
            in_binary()
            | {
                "parameters": {"binary_data_output": True},
                "outputs": [{"name": "q_values", "parameters": {"binary_data": False}}],
            },
            set(),
        ),
    ):
        answer = client.post(INFER, **binary(document))
        assert answer.status_code == 200
        length = int(answer.headers.get(HEADER_LENGTH, len(answer.content)))
        body, raw = json.loads(answer.content[:length]), answer.content[length:]
        assert (HEADER_LENGTH in answer.headers) == bool(binaries)
        wanted = [output["name"] for output in document.get("outputs", plain)]
        assert [output["name"] for output in body["outputs"]] == wanted
        for output in body["outputs"]:
            expected = next(other for other in plain if other["name"] == output["name"])
            if output["name"] in binaries:
                size = output["parameters"]["binary_data_size"]
                found = np.frombuffer(
                    raw[:size], "<f4" if output["datatype"] == "FP32" else "<i8"
                ).tolist()
                raw = raw[size:]
            else:
                found = output["data"]
            assert found == expected["data"]
        assert raw == b""


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_compressed_body_is_read(client: TestClient, coding: str) -> None:
    pack = gzip.compress if coding == "gzip" else zlib.compress
    assert (
        client.post(
            INFER, content=pack(json.dumps(asked()).encode()), headers={"content-encoding": coding}
        ).status_code
        == 200
    )
    given = binary(in_binary())
    given["content"] = pack(given["content"])
    given["headers"]["content-encoding"] = coding
    assert client.post(INFER, **given).status_code == 200


def test_a_compressed_body_is_inflated_to_the_limit_and_no_further(client: TestClient) -> None:
    bomb = gzip.compress(b"0" * 300_000_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(5):
        answer = client.post(INFER, content=bomb, headers={"content-encoding": "gzip"})
        assert answer.status_code == 413
        assert "inflated" in answer.json()["error"]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60_000  # KiB


WRONG: list[tuple[dict[str, Any] | bytes, str]] = [
    (b"{", "JSON"),
    (b"", "JSON"),
    (b"[]", "object"),
    (b"\xff", "JSON"),
    ({}, "inputs"),
    ({"inputs": []}, "expected one input"),
    ({"inputs": asked()["inputs"] * 2}, "expected one input"),
    (asked(name="observation"), "observation"),
    (asked(datatype="BOOL"), "BOOL"),
    (asked(datatype=32), "datatype"),
    (asked(shape=[2, 5]), r"\[2, 5\]"),
    (asked(shape=[3, 4]), "3 rows"),
    (asked(shape=[0, 4], data=[]), r"\[0, 4\]"),
    (asked(shape=[-1, 4]), r"\[-1, 4\]"),
    (asked(shape=[2**62, 4]), "states"),
    (asked(shape=[10**30, 4]), "shape"),
    (asked(shape=[8]), r"\[8\]"),
    (asked(shape=[1, 2, 4]), "shape"),
    (asked(shape=[]), "shape"),
    (asked(shape=[2.5, 4]), "shape"),
    (asked(shape=["2", 4]), "shape"),
    (asked(shape=None), "shape"),
    (asked(data=None), "neither"),
    (asked(data=[1, 2, 3]), "8 elements, found 3"),
    (asked(data=[[1, 2, 3, 4], [1, 2, 3]]), "nested"),
    (asked(data=[[1, 2, 3, 4], 5, 6, 7, 8]), "nested"),
    (asked(data=[[[1, 2, 3, 4]], [1, 2, 3, 4]]), "nested"),
    (asked(data=[1, 2, 3, 4, 5, 6, 7, "8"]), "element 7"),
    (asked(data=[1, 2, 3, True, 5, 6, 7, 8]), "element 3"),
    (asked(data=[1, 2, 3, None, 5, 6, 7, 8]), "element 3"),
    (asked(data=[1, 2, 3, float("nan"), 5, 6, 7, 8]), "element 3"),
    (asked(data=[1, 2, 3, 1e39, 5, 6, 7, 8]), "element 3"),
    (asked(data=[1, 2, 3, 10**400, 5, 6, 7, 8]), "element 3"),
    (asked(data=[3e38] * 8), "no finite Q-values"),
    (asked(parameters={"binary_data_size": 32}), "both"),
    (in_binary(), HEADER_LENGTH),
    (asked(parameters={"shared_memory_region": "x"}), "shared memory"),
    (
        asked() | {"outputs": [{"name": "action", "parameters": {"shared_memory_region": "x"}}]},
        "output 'action': shared memory",
    ),
    (asked() | {"outputs": [{"name": "value"}]}, "value"),
    (asked() | {"outputs": [{"name": "action"}, {"name": "action"}]}, "twice"),
    (asked() | {"outputs": [{}]}, "outputs/0/name"),
    (asked() | {"id": 7}, "id"),
    (asked() | {"parameters": {"binary_data_output": 1}}, "binary_data_output"),
    (
        asked() | {"outputs": [{"name": "action", "parameters": {"binary_data": "yes"}}]},
        "binary_data",
    ),
    (b'{"inputs":' + b"[" * 20_000, "JSON|recursion"),
]


@pytest.mark.parametrize(("body", "named"), WRONG)
def test_a_wrong_request_is_refused_with_the_reason(
    client: TestClient, body: dict[str, Any] | bytes, named: str
) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = client.post(INFER, content=content)
    assert answer.status_code == 400, answer.text
    assert list(answer.json()) == ["error"]
    assert re.search(named, answer.json()["error"]), answer.text


@pytest.mark.parametrize(
    ("size", "raw", "headers", "named"),
    [
        (32, RAW[:-1], {}, "31 bytes follow"),
        (32, RAW + b"\0", {}, "33 bytes follow"),
        (31, RAW[:-1], {}, "has 32 bytes, found 31"),
        (-1, RAW, {}, "binary_data_size"),
        (2**70, RAW, {}, "bytes follow"),
        (True, RAW, {}, "whole number"),
        ("32", RAW, {}, "whole number"),
        (None, RAW, {}, "neither"),
        (32, np.array([[0, 0, 0, np.nan]] * 2, "<f4").tobytes(), {}, "element 3"),
        (32, RAW, {HEADER_LENGTH: "-1"}, HEADER_LENGTH),
        (32, RAW, {HEADER_LENGTH: "999999"}, HEADER_LENGTH),
        (
            32,
            RAW,
            {HEADER_LENGTH: "9" * 5_000},
            HEADER_LENGTH,
        ),
        (32, RAW, {HEADER_LENGTH: "1e2"}, HEADER_LENGTH),
        (32, RAW, {HEADER_LENGTH: "0"}, "JSON"),
        (32, RAW, {"content-encoding": "gzip"}, "Content-Encoding"),
    ],
)
def test_a_wrong_binary_request_is_refused_with_the_reason(
    client: TestClient, size: object, raw: bytes, headers: dict[str, str], named: str
) -> None:
    answer = client.post(INFER, **binary(in_binary(binary_data_size=size), raw, **headers))
    assert answer.status_code == 400, answer.text
    assert named in answer.json()["error"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/nowhere", 404),
        ("GET", "/v2/models/other", 404),
        ("POST", "/v2/models/other/infer", 404),
        ("POST", f"{MODEL}/versions/2/infer", 404),
        ("GET", f"{MODEL}/versions", 404),
        ("GET", f"{MODEL}/nothing", 404),
        ("GET", "/v2/models/other/stats", 404),
        ("GET", "/v2/logging", 404),
        ("GET", INFER, 405),
        ("POST", MODEL, 405),
        ("DELETE", "/v2", 405),
        ("POST", "/v2/repository/models/other/load", 404),
        ("POST", "/v2/repository/models/cartpole-dqn/unload", 501),
        ("GET", "/v2/repository/index", 405),
    ],
)
def test_every_other_status_has_the_protocols_error(
    client: TestClient, method: str, path: str, status: int
) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]
    assert ("allow" in answer.headers) == (status == 405)


def test_more_than_an_endpoint_takes_is_refused(client: TestClient, committed: Bundle) -> None:
    answer = client.post(INFER, content=b" " * 3_000_000)
    assert answer.status_code == 413
    assert "error" in answer.json()
    with TestClient(
        create_application(settings(max_batch=1), ServiceState(load(committed, "onnx")))
    ) as small:
        answer = small.post(INFER, json=asked())
        assert answer.status_code == 400
        assert "at most 1" in answer.json()["error"]
    answer = client.post(INFER, content=b"x", headers={"content-encoding": "br"})
    assert answer.status_code == 415


def test_if_match_of_another_bundle_gets_no_action(client: TestClient, committed: Bundle) -> None:
    assert (
        client.post(INFER, json=asked(), headers={"if-match": f'"{committed.digest}"'}).status_code
        == 200
    )
    answer = client.post(INFER, json=asked(), headers={"if-match": '"sha256:other"'})
    assert answer.status_code == 412
    assert list(answer.json()) == ["error"]


def test_the_repository_lists_the_model_and_loads_what_lies_in_the_folder(
    tmp_path: Path, committed: Bundle
) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(COMMITTED, folder)
    with TestClient(
        create_application(settings(bundle=folder), ServiceState(load(committed, "onnx")))
    ) as client:
        for body in (b"", b"{}", b'{"ready":true}'):
            answer = client.post("/v2/repository/index", content=body)
            assert answer.json() == [
                {"name": "cartpole-dqn", "version": "1", "state": "READY", "reason": ""}
            ]
        assert client.post("/v2/repository/index", content=b"{").status_code == 400
        load_path = "/v2/repository/models/cartpole-dqn/load"
        assert client.post(load_path, json={}).status_code == 200
        assert client.post(load_path, json={"parameters": {"config": "{}"}}).status_code == 400
        manifest = folder / "manifest.json"
        manifest.write_text(manifest.read_text().replace('"version": "1"', '"version": "2"', 1))
        assert client.post(load_path, json={}).status_code == 200
        assert client.post("/v2/repository/index").json()[0]["version"] == "2"
        (folder / "policy.onnx").write_bytes(b"torn")
        answer = client.post(load_path, json={})
        assert answer.status_code == 409
        assert "policy.onnx: size differs" in answer.json()["error"]
        assert client.post("/v2/repository/index").json()[0]["version"] == "2"


def test_a_failing_backend_is_an_error_and_never_an_action(committed: Bundle) -> None:
    with failing_client(committed) as client:
        answer = client.post(INFER, json=asked())
        assert answer.status_code == 500
        assert list(answer.json()) == ["error"]


def test_twenty_thousand_spoiled_bodies_are_never_a_failure_of_the_service(
    committed: Bundle,
) -> None:
    app = create_application(settings(), ServiceState(load(committed, "onnx")))
    rng = random.Random(6)  # noqa: S311 - no secret depends on it
    good = [json.dumps(body).encode() if isinstance(body, dict) else body for body, _ in WRONG]
    good += [json.dumps(asked()).encode()] * 10
    packed = binary(in_binary())["content"]
    length = len(packed) - len(RAW)

    def spoiled() -> tuple[bytes, list[tuple[bytes, bytes]]]:
        headers: list[tuple[bytes, bytes]] = []
        if rng.random() < 0.4:
            body = bytearray(packed)
            declared: object = rng.choice(
                [length, length, length + rng.randint(-5, 5), rng.randint(-9, 999), 10**20, "x", ""]
            )
            headers.append((HEADER_LENGTH.lower().encode(), str(declared).encode()))
        else:
            body = bytearray(rng.choice(good))
        for _ in range(rng.choice([0, 1, 1, 2, 8])):
            if not body:
                break
            place = rng.randrange(len(body))
            match rng.randrange(5):
                case 0:
                    body[place] = rng.randrange(256)
                case 1:
                    del body[place : place + rng.randint(1, 9)]
                case 2:
                    body[place:place] = rng.choice(
                        [
                            b"0",
                            b"-",
                            b"9" * 30,
                            b"null",
                            b"[",
                            b"{",
                            b'"',
                            b"1e999",
                            b"NaN",
                            b"\\ud800",
                        ]
                    )
                case 3:
                    body[place:place] = body[max(0, place - 12) : place]
                case 4:
                    del body[place:]
        content = bytes(body)
        if rng.random() < 0.15:
            pack = gzip.compress if rng.random() < 0.5 else zlib.compress
            content = pack(content * rng.choice([1, 1, 1, 400]), 1)
            headers.append((b"content-encoding", rng.choice([b"gzip", b"deflate"])))
            if rng.random() < 0.3:
                content = content[: rng.randrange(len(content))]
        return content, headers

    async def post(body: bytes, headers: list[tuple[bytes, bytes]]) -> int:
        status = 0

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            nonlocal status
            status = message.get("status", status)

        scope = {
            "type": "http",
            "method": "POST",
            "path": INFER,
            "raw_path": INFER.encode(),
            "query_string": b"",
            "headers": headers,
            "http_version": "1.1",
            "scheme": "http",
            "root_path": "",
            "client": None,
            "server": None,
        }
        await app(scope, receive, send)  # type: ignore[arg-type] # as much of the ASGI types as the service looks at
        return status

    async def run() -> dict[int, int]:
        seen: dict[int, int] = {}
        for _ in range(20_000):
            status = await post(*spoiled())
            seen[status] = seen.get(status, 0) + 1
        return seen

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seen = asyncio.run(run())
    assert set(seen) <= {200, 400, 413}, seen
    assert seen[200] > 500
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


@pytest.mark.parametrize("changes", [{"parameters": None}, {"outputs": None}, {"id": None}])
def test_null_is_as_if_it_had_been_left_out(client: TestClient, changes: dict[str, Any]) -> None:
    plain = client.post(INFER, json=asked())
    answer = client.post(INFER, json=asked() | changes)
    assert (answer.status_code, answer.content) == (200, plain.content)
    inner = client.post(INFER, json=asked(parameters=None))
    assert inner.content == plain.content


@pytest.mark.parametrize("datatype", ["FP64", "FP16", "INT32", "INT64"])
def test_whole_numbers_of_every_datatype_are_answered_alike(
    client: TestClient, datatype: str
) -> None:
    numbers = [[0, 0, 1, 0], [1, -1, 0, 2]]
    expected = client.post(INFER, json=asked(data=numbers)).content
    assert client.post(INFER, json=asked(data=numbers, datatype=datatype)).content == expected
    raw = np.array(numbers, protocol.DATATYPES[datatype]).tobytes()
    document = asked(parameters={"binary_data_size": len(raw)}, datatype=datatype)
    del document["inputs"][0]["data"]
    assert client.post(INFER, **binary(document, raw)).content == expected


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"datatype": "INT64", "data": [[0, 0, 0.5, 0], [0, 0, 0, 0]]},
            "element 2 must be a whole",
        ),
        ({"datatype": "INT32", "data": [0] * 7 + [2**24 + 1]}, "element 7 is 16777217"),
        ({"datatype": "FP64", "data": [1e39] + [0] * 7}, "element 0 is not finite"),
    ],
)
def test_a_value_that_fp32_has_not_is_refused_by_its_place(
    client: TestClient, changes: dict[str, Any], reason: str
) -> None:
    answer = client.post(INFER, json=asked(**changes))
    assert answer.status_code == 400
    assert reason in answer.json()["error"]


def test_classes_are_refused_by_name(client: TestClient) -> None:
    outputs = [{"name": "q_values", "parameters": {"classification": 2}}]
    answer = client.post(INFER, json=asked() | {"outputs": outputs})
    assert answer.status_code == 400
    assert "classification" in answer.json()["error"]


def test_the_models_are_listed(client: TestClient) -> None:
    [model] = client.get("/v2/models").json()["models"]
    assert (model["name"], model["state"]) == ("cartpole-dqn", "READY")


def test_a_byte_order_mark_is_named(client: TestClient) -> None:
    answer = client.post(INFER, content=b"\xef\xbb\xbf" + json.dumps(asked()).encode())
    assert answer.status_code == 400
    assert "byte order mark" in answer.json()["error"]


def test_a_model_is_not_ready_while_the_service_drains(committed: Bundle) -> None:
    state = ServiceState(load(committed, "onnx"))
    with TestClient(create_application(settings(), state)) as client:
        assert client.get("/v2/models/cartpole-dqn/ready").status_code == 200
        state.start_draining()
        for path in ("/v2/models/cartpole-dqn/ready", "/v2/health/ready", "/health/ready"):
            assert client.get(path).status_code == 503
