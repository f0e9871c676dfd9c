"""Each endpoint of the service, by both backends, over a transport."""

import json
import math
import struct

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from models.bundle import Bundle
from service.endpoints import ENDPOINTS, GRPC_LABEL
from service.inference.loading import load
from service.inference.policy import Policy
from service.server.application import create_application
from service.state import ServiceState
from tests.support.backends import FixedBackend
from tests.support.service import settings

STATE = [0.0, 0.0, 0.05, 0.0]
# No operations of the API: a WebSocket, which OpenAPI cannot describe, and pages for people.
UNDESCRIBED = (
    "/page/{name}",
    "/",
    "/act/stream",
    "/openapi.json",
    "/docs",
    "/docs/swagger-ui-bundle.js",
    "/docs/swagger-ui.css",
    "/docs/favicon.png",
)
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=8), inner),
)


def finite_as_float32(number: float) -> bool:
    try:
        return math.isfinite(struct.unpack("f", struct.pack("f", number))[0])
    except OverflowError:
        return False


def test_a_state_is_answered_with_q_values_and_the_greedy_action(
    client: TestClient, committed: Bundle
) -> None:
    answer = client.post("/act", json={"state": STATE})
    assert answer.status_code == 200
    body = answer.json()
    assert list(body) == ["action", "action_name", "q_values", "out_of_range", "model", "digest"]
    assert (body["action"], body["action_name"]) == (1, "right")
    assert body["q_values"][1] > body["q_values"][0]
    assert (body["model"], body["digest"], body["out_of_range"]) == (
        "cartpole-dqn",
        committed.digest,
        [],
    )
    assert answer.headers["etag"] == f'"{committed.digest}"'
    assert answer.headers["server-timing"].startswith("inference;dur=")


def test_an_answer_needs_no_content_type(client: TestClient) -> None:
    for headers in (
        {},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "text/plain"},
    ):
        assert (
            client.post("/act", content=json.dumps({"state": STATE}), headers=headers).status_code
            == 200
        )


def test_seq_is_echoed_and_absent_if_not_sent(client: TestClient) -> None:
    assert client.post("/act", json={"state": STATE, "seq": 2**63 - 1}).json()["seq"] == 2**63 - 1
    assert "seq" not in client.post("/act", json={"state": STATE}).json()
    assert client.post("/act/batch", json={"states": [STATE], "seq": 0}).json()["seq"] == 0


@pytest.mark.parametrize(
    ("body", "status", "named"),
    [
        (b"{}", 422, "#/state"),
        (b"[]", 422, "#"),
        (b'{"state":[1,2,3]}', 422, "#/state/3"),
        (b'{"state":[1,2,3,4,5]}', 422, "#/state"),
        (b'{"state":[1,2,3,"4"]}', 422, "#/state/3"),
        (b'{"state":[1,2,3,true]}', 422, "#/state/3"),
        (b'{"state":[1,2,3,null]}', 422, "#/state/3"),
        (b'{"state":[1,2,3,NaN]}', 422, "#/state/3"),
        (b'{"state":[-Infinity,2,3,4]}', 422, "#/state/0"),
        (b'{"state":[1,2,3,1e39]}', 422, "#/state/3"),
        (b'{"state":[1,2,3,1e999]}', 422, "#/state/3"),
        (b'{"state":[1,2,3,3.4028235677973366e38]}', 422, "#/state/3"),
        (b'{"state":[1,2,3,4],"stat":1}', 422, "#/stat"),
        (b'{"state":[1,2,3,4],"a/b~c":1}', 422, "#/a~1b~0c"),
        (b'{"state":[1,2,3,4],"seq":-1}', 422, "#/seq"),
        (b'{"state":[1,2,3,4],"seq":"1"}', 422, "#/seq"),
        (b'{"state":{"0":1}}', 422, "#/state"),
        (b'{"state":[3e38,3e38,3e38,3e38]}', 422, "#/state"),
        (b"left or right?", 400, None),
        (b"", 400, None),
        (b'{"state":[1,2,3,4]', 400, None),
        (b"\xff\xfe", 400, None),
        (b"[" * 10_000, 400, None),
        (b'{"state":[1,2,3,' + b"4" * 10_000_000 + b"]}", 413, None),
    ],
)
def test_a_bad_body_is_refused_with_what_and_where(
    client: TestClient, body: bytes, status: int, named: str | None
) -> None:
    answer = client.post("/act", content=body)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert problem["type"].startswith("urn:upright:problem:")
    assert problem["title"]
    assert problem["detail"]
    assert "action" not in problem
    if named is not None:
        assert problem["errors"][0]["pointer"] == named
        assert problem["detail"].startswith(f"{named}: ")


def test_the_largest_32_bit_float_is_read_as_a_number(client: TestClient) -> None:
    answer = client.post(
        "/act", json={"state": [3.4028234663852886e38, 3.4028234663852886e38, 0, 0]}
    )
    assert answer.status_code == 200  # the network takes it as the end of what training saw
    assert answer.json()["out_of_range"] == ["cart_position", "cart_velocity"]


@hypothesis_settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(state=st.lists(st.floats() | st.integers(), min_size=4, max_size=4))
def test_four_numbers_get_an_action_or_a_reason(client: TestClient, state: list[float]) -> None:
    answer = client.post("/act", content=json.dumps({"state": state}))
    if not all(finite_as_float32(number) for number in state):
        assert answer.status_code == 422
    elif answer.status_code == 200:
        assert all(math.isfinite(q_value) for q_value in answer.json()["q_values"])
        assert answer.json()["action"] in (0, 1)
    else:
        assert answer.json()["type"] == "urn:upright:problem:state-too-extreme"


@hypothesis_settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    body=st.binary(max_size=60)
    | st.builds(
        lambda value: json.dumps(value).encode(), JSON | st.fixed_dictionaries({"state": JSON})
    )
)
def test_no_body_makes_the_service_fail(client: TestClient, body: bytes) -> None:
    for endpoint in ("/act", "/act/batch"):
        assert client.post(endpoint, content=body).status_code in (200, 400, 422)


def test_a_batch_answers_in_columns_what_act_answers_one_by_one(client: TestClient) -> None:
    states = [STATE, [0, 0, -0.05, 0], [2.5, 5, 0.3, -5]]
    batch = client.post("/act/batch", json={"states": states}).json()
    assert list(batch) == ["actions", "action_names", "q_values", "out_of_range", "model", "digest"]
    for row, state in enumerate(states):
        single = client.post("/act", json={"state": state}).json()
        assert single["action"] == batch["actions"][row]
        assert single["action_name"] == batch["action_names"][row]
        assert single["q_values"] == batch["q_values"][row]
        assert single["out_of_range"] == batch["out_of_range"][row]


@pytest.mark.parametrize(
    ("body", "status", "named"),
    [
        ({"states": []}, 422, "#/states"),
        ({"states": [STATE, [1, 2, 3]]}, 422, "#/states/1/3"),
        ({"states": [STATE, [3e38, 3e38, 3e38, 3e38]]}, 422, "#/states/1"),
        ({"states": [STATE] * 6}, 413, "#/states"),
        ({"state": STATE}, 422, "#/states"),
    ],
)
def test_a_bad_batch_is_refused_with_what_and_where(
    committed: Bundle, body: object, status: int, named: str
) -> None:
    with TestClient(
        create_application(settings(max_batch=5), ServiceState(load(committed, "onnx")))
    ) as client:
        answer = client.post("/act/batch", json=body)
    assert answer.status_code == status
    assert answer.json()["errors"][0]["pointer"] == named


def test_a_batch_that_is_wrong_in_many_places_is_told_the_first_bad_state(
    client: TestClient,
) -> None:
    problem = client.post("/act/batch", json={"states": [STATE, *[[None] * 4] * 60_000]}).json()
    assert [error["pointer"] for error in problem["errors"]] == [
        f"#/states/1/{index}" for index in range(4)
    ]


def test_a_body_with_many_unknown_fields_is_told_the_first_ten(client: TestClient) -> None:
    problem = client.post(
        "/act", json={"state": STATE, **{f"field {index}": 0 for index in range(100)}}
    ).json()
    assert len(problem["errors"]) == 10
    assert problem["errors"][0]["pointer"] == "#/field%200"
    assert "99 more" in problem["detail"]


def test_a_name_of_any_length_is_told_in_a_few_characters(client: TestClient) -> None:
    answer = client.post("/act", json={"state": STATE, "ä" * 5_000: 1})
    assert answer.status_code == 422
    assert len(answer.content) < 1_000


@pytest.mark.parametrize("wanted", ["*", '"DIGEST"', '"sha256:other", "DIGEST"'])
def test_if_match_of_the_served_bundle_is_answered(
    client: TestClient, committed: Bundle, wanted: str
) -> None:
    headers = {"if-match": wanted.replace("DIGEST", committed.digest)}
    assert client.post("/act", json={"state": STATE}, headers=headers).status_code == 200


@pytest.mark.parametrize("wanted", ['"sha256:other"', 'W/"DIGEST"', "DIGEST", ""])
def test_if_match_of_another_bundle_gets_412_and_no_action(
    client: TestClient, committed: Bundle, wanted: str
) -> None:
    headers = {"if-match": wanted.replace("DIGEST", committed.digest)}
    for endpoint, body in (("/act", {"state": STATE}), ("/act/batch", {"states": [STATE]})):
        answer = client.post(endpoint, json=body, headers=headers)
        assert answer.status_code == 412
        assert answer.headers["etag"] == f'"{committed.digest}"'
        assert "action" not in answer.json()


def test_request_id_is_echoed_or_made(client: TestClient) -> None:
    assert (
        client.post("/act", json={"state": STATE}, headers={"x-request-id": "loop-7/42"}).headers[
            "x-request-id"
        ]
        == "loop-7/42"
    )
    made = {
        client.get(path).headers["x-request-id"] for path in ("/health/live", "/model", "/nowhere")
    }
    assert len(made) == 3
    assert (
        client.get("/model", headers={"x-request-id": "a" * 200}).headers["x-request-id"]
        != "a" * 200
    )


@pytest.mark.parametrize("endpoint", ["/act", "/act/batch"])
def test_q_values_that_are_not_finite_are_a_failure_with_a_reason(
    committed: Bundle, endpoint: str
) -> None:
    with TestClient(
        create_application(
            settings(), ServiceState(Policy(committed, FixedBackend(math.nan, 1), "onnx"))
        )
    ) as client:
        answer = client.post(
            endpoint, json={"state": STATE} if endpoint == "/act" else {"states": [STATE]}
        )
    assert answer.status_code == 500
    assert answer.json()["type"] == "urn:upright:problem:q-values-not-finite"


def test_a_failing_backend_is_a_problem_that_carries_the_request_id(committed: Bundle) -> None:
    class Broken:
        def q_values(self, _: object) -> object:
            raise MemoryError("no memory")

    app = create_application(settings(), ServiceState(Policy(committed, Broken(), "onnx")))  # type: ignore[arg-type] # broken on purpose
    with TestClient(app, raise_server_exceptions=False) as client:
        answer = client.post("/act", json={"state": STATE}, headers={"x-request-id": "r1"})
    assert answer.status_code == 500
    assert answer.json()["type"] == "urn:upright:problem:internal-error"
    assert answer.headers["x-request-id"] == "r1"
    assert "no memory" not in answer.text


def test_model_tells_the_manifest_the_digest_and_the_backend(
    client: TestClient, committed: Bundle
) -> None:
    answer = client.get("/model")
    assert answer.json()["digest"] == committed.digest
    assert answer.json()["backend"] in ("onnx", "torchscript")
    assert answer.json()["manifest"] == committed.manifest.model_dump(mode="json")
    assert answer.headers["etag"] == f'"{committed.digest}"'


def test_health_is_live_and_ready(client: TestClient) -> None:
    assert client.get("/health/live").json() == {"status": "live"}
    assert client.get("/health/ready").json() == {"status": "ready"}


def test_unknown_endpoints_and_methods_are_problems(client: TestClient) -> None:
    nowhere, wrong = client.get("/nowhere"), client.get("/act")
    assert (nowhere.status_code, wrong.status_code) == (404, 405)
    assert wrong.headers["allow"] == "POST"
    assert wrong.json()["detail"] == "GET /act: only POST is answered here"
    for answer in (nowhere, wrong):
        assert answer.headers["content-type"] == "application/problem+json"
        assert "/" in answer.json()["detail"]


def test_openapi_document_describes_the_endpoints_and_their_bodies(client: TestClient) -> None:
    assert client.get("/docs").status_code == 200
    document = client.get("/openapi.json").json()
    act = document["paths"]["/act"]["post"]
    assert act["requestBody"]["content"]["application/json"]["schema"]["required"] == ["state"]
    assert "412" in act["responses"]
    assert set(document["paths"]) == {
        endpoint.path
        for endpoint in ENDPOINTS
        if endpoint.label != GRPC_LABEL and endpoint.path not in UNDESCRIBED
    }
    assert "Problem" in document["components"]["schemas"]
