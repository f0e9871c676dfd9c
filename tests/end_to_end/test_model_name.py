"""The names by which the Open Inference Protocol's callers call the model."""

import json
import warnings
from pathlib import Path

import httpx2
import numpy as np
import pytest

from models.bundle import Bundle
from service.inference.loading import load
from service.state import ServiceState
from tests.support.raw_http import ask, both_paths, request
from tests.support.service import Start, free_port, reachable, refused, settings, wait_for

with warnings.catch_warnings():
    # What other people's modules warn of when they are imported is no claim of ours.
    warnings.simplefilter("ignore")
    import tritonclient.grpc
    from tritonclient.utils import InferenceServerException

NAMES = "isvc", "cart.pole_2", "Other-3"
STATE = {"name": "state", "shape": [1, 4], "datatype": "FP32", "data": [0.0, 0.0, 0.05, 0.0]}


def test_the_model_answers_to_its_names_and_by_the_first(start: Start) -> None:
    flags = ["--model-name", NAMES[0], "--model-name", ",".join(NAMES[1:])]
    with start(*flags) as address, httpx2.Client(base_url=f"{address}/v2") as client:
        for name in NAMES:
            for path in (f"/models/{name}", f"/models/{name}/versions/1"):
                assert client.get(path).json()["name"] == NAMES[0]
                assert client.get(f"{path}/config").json()["name"] == NAMES[0]
                assert client.get(f"{path}/ready").json() == {"name": name, "ready": True}
                answer = client.post(f"{path}/infer", json={"inputs": [STATE]}).json()
                assert answer["model_name"] == NAMES[0]
                assert answer["outputs"][1]["data"] == [1]
            assert client.post(f"/repository/models/{name}/load").json() == {}

        listed = client.get("/models").json()["models"]
        assert [entry["name"] for entry in listed] == list(NAMES)
        assert [entry["name"] for entry in client.post("/repository/index").json()] == [NAMES[0]]
        for path in ("", "/ready", "/config"):
            assert client.get(f"/models/cartpole-dqn{path}").status_code == 404
        refusal = client.post("/models/cartpole-dqn/infer", json={"inputs": [STATE]})
        assert refusal.status_code == 404
        assert refusal.json() == {
            "error": "there is no model 'cartpole-dqn'; 'isvc' is served",
        }


def test_grpc_knows_the_names(start: Start) -> None:
    port = free_port()
    with start("--grpc-port", str(port), "--model-name", ",".join(NAMES)):
        wait_for(lambda: reachable(port))
        with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{port}") as client:
            state = tritonclient.grpc.InferInput("state", [1, 4], "FP32")
            state.set_data_from_numpy(np.array([[0, 0, 0.05, 0]], np.float32))
            for name in NAMES:
                assert client.is_model_ready(name)
                assert client.get_model_metadata(name).name == NAMES[0]
                assert client.infer(name, [state]).get_response().model_name == NAMES[0]
                client.load_model(name)
            with pytest.raises(InferenceServerException, match="'isvc' is served"):
                client.infer("cartpole-dqn", [state])


def test_both_paths_know_the_names(committed: Bundle) -> None:
    state = ServiceState(load(committed, "onnx"))
    body = json.dumps({"id": "a", "inputs": [STATE]}).encode()
    with both_paths(settings(model_name=NAMES), state) as both:
        for name in (*NAMES, "cartpole-dqn"):
            for place in (name, f"{name}/versions/1", f"{name}/versions/2"):
                sent = request("POST", f"/v2/models/{place}/infer", [], [body])
                assert ask(both.fast, sent) == ask(both.asgi, sent)


@pytest.mark.parametrize("name", ["", "a/b", "-a", "a b", "a\x1b[2J", "x" * 101])
def test_a_name_that_no_path_could_hold_is_refused(name: str, tmp_path: Path) -> None:
    code, complaint = refused("--model-name", name, "--bundle", str(tmp_path))
    assert code == 2
    assert "--model-name" in complaint
    assert complaint.strip().isprintable()


def test_kserves_name_is_the_models_where_no_other_is_set(start: Start) -> None:
    kserve = {"INFERENCE_SERVICE_NAME": "cartpole"}
    with start(environment=kserve) as address:
        assert httpx2.get(f"{address}/v2/models/cartpole/ready").status_code == 200
        assert httpx2.get(f"{address}/v2/models/cartpole-dqn/ready").status_code == 404
    for flags, variables in (
        (["--model-name", "other"], kserve),
        ([], {**kserve, "UPRIGHT_MODEL_NAME": "other"}),
    ):
        with start(*flags, environment=variables) as address:
            assert httpx2.get(f"{address}/v2/models/other/ready").status_code == 200
            assert httpx2.get(f"{address}/v2/models/cartpole/ready").status_code == 404
