"""States outside what training saw are refused, where the caller or the operator asks for it."""

from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from models.bundle import Bundle
from service.inference.loading import load
from service.server.application import create_application
from service.state import ServiceState
from tests.support.metrics import samples
from tests.support.raw_http import ask, both_paths, request
from tests.support.service import settings

INSIDE, DEGREES = [0.0, 0.0, 0.05, 0.0], [0.0, 0.0, 3.0, 0.0]
INFER = "/v2/models/cartpole-dqn/infer"


def tensor(*states: list[float], **parameters: object) -> dict[str, object]:
    data = [value for state in states for value in state]
    shape = [len(states), 4]
    return {
        "parameters": parameters,
        "inputs": [{"name": "state", "shape": shape, "datatype": "FP32", "data": data}],
    }


@pytest.fixture
def strict(committed: Bundle) -> Iterator[TestClient]:
    """A service whose operator has all such states refused."""
    with TestClient(
        create_application(
            settings(refuse_out_of_range=True), ServiceState(load(committed, "onnx"))
        )
    ) as client:
        yield client


def test_a_strict_request_gets_an_action_only_for_a_state_that_training_saw(
    client: TestClient,
) -> None:
    asked = {"state": INSIDE}
    assert client.post("/act", json=asked | {"strict": True}).content == (
        client.post("/act", json=asked | {"strict": False}).content
    )
    assert client.post("/act", json={"state": DEGREES}).json()["out_of_range"] == ["pole_angle"]

    refused = client.post("/act", json={"state": DEGREES, "strict": True})
    assert (refused.status_code, refused.json()["type"]) == (
        422,
        "urn:upright:problem:out-of-range",
    )
    assert "action" not in refused.json()
    [error] = refused.json()["errors"]
    assert error["pointer"] == "#/state/2"
    assert error["detail"].startswith("pole_angle is 3 rad, but training saw -0.2094")
    assert error["detail"].endswith("; 3 degrees would be 0.05236")


def test_a_strict_batch_is_refused_by_the_places_of_its_values(client: TestClient) -> None:
    states = [INSIDE, [9.0, 0.0, 3.0, 0.0], *[DEGREES] * 20]
    refused = client.post("/act/batch", json={"states": states, "strict": True})
    assert refused.status_code == 422
    assert "(and 21 more)" in refused.json()["detail"]
    pointers = [error["pointer"] for error in refused.json()["errors"]]
    assert pointers[:3] == ["#/states/1/0", "#/states/1/2", "#/states/2/2"]
    assert len(pointers) == 10
    good = client.post("/act/batch", json={"states": [INSIDE] * 3, "strict": True})
    assert good.json()["actions"] == [1, 1, 1]


@pytest.mark.parametrize("value", [None, 1, "true"])
def test_strict_is_true_or_false(client: TestClient, value: object) -> None:
    problem = client.post("/act", json={"state": INSIDE, "strict": value})
    assert problem.json()["errors"][0]["pointer"] == "#/strict"
    assert client.post(INFER, json=tensor(INSIDE, strict=value)).status_code == 400


def test_a_parameter_refuses_by_the_open_inference_protocol(client: TestClient) -> None:
    assert client.post(INFER, json=tensor(DEGREES)).status_code == 200
    assert client.post(INFER, json=tensor(INSIDE, INSIDE, strict=True)).status_code == 200
    refused = client.post(INFER, json=tensor(INSIDE, DEGREES, strict=True))
    assert refused.status_code == 422
    assert refused.json()["error"].startswith("state 1: pole_angle is 3 rad")


def test_an_operator_refuses_for_every_caller_and_every_endpoint(strict: TestClient) -> None:
    for path, body in (
        ("/act", {"state": DEGREES}),
        ("/act", {"state": DEGREES, "strict": False}),
        ("/act/batch", {"states": [INSIDE, DEGREES]}),
        (INFER, tensor(DEGREES)),
        (INFER, tensor(DEGREES, strict=False)),
    ):
        refused = strict.post(path, json=body)
        assert refused.status_code == 422
        assert "pole_angle" in refused.text
    with strict.websocket_connect("/act/stream") as stream:
        stream.send_json({"state": DEGREES, "seq": 3})
        problem = stream.receive_json()
        assert (problem["title"], problem["seq"]) == ("out of range", 3)
        stream.send_json({"state": INSIDE, "seq": 4})
        assert stream.receive_json()["action"] == 1


def test_what_was_refused_counts_as_a_request_and_not_as_an_action(strict: TestClient) -> None:
    strict.post("/act", json={"state": DEGREES})
    strict.post("/act", json={"state": INSIDE})
    counts = samples(strict.get("/metrics").text)
    assert counts["upright_requests_total", ("/act", "422")] == 1
    assert sum(value for (name, _), value in counts.items() if name == "upright_actions_total") == 1


@pytest.mark.parametrize("refuse", [False, True])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/act", b'{"state":[0,0,3,0],"strict":true}'),
        ("/act", b'{"state":[0,0,3,0],"strict":false}'),
        ("/act", b'{"state":[0,0,3,99]}'),
        ("/act/batch", b'{"states":[[0,0,0,0],[9,9,3,0]],"strict":true}'),
        ("/act/batch", b'{"states":[[0,0,0,0],[9,9,3,0]]}'),
        (
            INFER,
            b'{"parameters":{"strict":true},"inputs":[{"name":"state","shape":[1,4],'
            b'"datatype":"FP32","data":[0,0,3,0]}]}',
        ),
    ],
)
def test_both_paths_refuse_with_the_same_bytes(
    committed: Bundle, path: str, body: bytes, refuse: bool
) -> None:
    state = ServiceState(load(committed, "onnx"))
    with both_paths(settings(refuse_out_of_range=refuse), state) as both:
        sent = request("POST", path, [], [body])
        fast, asgi = ask(both.fast, sent), ask(both.asgi, sent)
    assert fast == asgi
    assert fast[0].status == (422 if refuse or b"true" in body else 200)


def test_the_shadow_refuses_as_it_would_if_it_were_served(committed: Bundle) -> None:
    application = create_application(
        settings(refuse_out_of_range=True),
        ServiceState(load(committed, "onnx")),
        shadow=load(committed, "onnx"),
    )
    with TestClient(application) as client:
        assert client.post("/shadow/act", json={"state": DEGREES}).status_code == 422
        assert client.post("/shadow/act", json={"state": INSIDE}).json()["action"] == 1
