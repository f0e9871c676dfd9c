"""An error says what the mistake most likely was, where the body or the path looks like one."""

import pytest
from starlette.testclient import TestClient

from models import bundle
from service.inference.loading import load
from service.server.application import create_application
from service.state import ServiceState
from tests.support.project import COMMITTED
from tests.support.service import settings

POLICY = load(bundle.read(COMMITTED), "onnx")


@pytest.fixture(scope="module")
def client() -> TestClient:
    return TestClient(create_application(settings(), ServiceState(POLICY)))


@pytest.mark.parametrize(
    ("path", "body", "status", "hint"),
    [
        ("/act", "{'state': [0, 0, 0, 0]}", 400, "JSON has double quotes"),
        ("/act", '{"state": [np.float32(0.1), 0, 0, 0]}', 400, "by .tolist()"),
        ("/act", '{"state": array([0.1, 0, 0, 0])}', 400, "by .tolist()"),
        ("/act", '{"state": [tensor(0.1), 0, 0, 0]}', 400, "by .tolist()"),
        ("/act", "{state:[0,0,0.05,0]}", 400, 'as PowerShell loses them: write \\" or send a file'),
        ("/act", '{"state": [nan, 0, 0, 0]}', 400, "are Python's, not JSON's"),
        ("/act", '{"state": [0, 0, 0, 0], "seq": None}', 400, "are Python's, not JSON's"),
        ("/act", '{"state": [0, 0, 0, 0,]}', 400, "a comma stands behind the last value"),
        ("/act", "[0, 0, 0, 0]", 422, 'send {"state": […]}'),
        ("/act", '{"state": [[0, 0, 0, 0]]}', 422, "POST /act/batch several"),
        ("/act", '{"state": [[0, 0, 0, 0], {}]}', 422, "Gymnasium's reset returns a pair"),
        ("/act", '{"states": [[0, 0, 0, 0]]}', 422, "POST /act/batch answers several states"),
        ("/act/batch", '{"state": [0, 0, 0, 0]}', 422, "POST /act answers one state"),
        ("/act/batch", "[[0, 0, 0, 0]]", 422, 'send {"states": [[…], …]}'),
        ("/predict", "{}", 404, "POST one state to /act, several to /act/batch"),
        ("/health", "{}", 404, "GET /health/live and /health/ready are there"),
        ("/healthz", "{}", 404, "GET /health/live and /health/ready are there"),
        ("/act/", "{}", 404, "there is /act, without the slash"),
        ("/acts", "{}", 404, "did you mean /act?"),
        ("/health/raedy", "{}", 404, "did you mean /health/ready?"),
    ],
)
def test_a_mistake_that_is_often_made_is_named(
    client: TestClient, path: str, body: str, status: int, hint: str
) -> None:
    answer = client.post(path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status
    assert hint in answer.json()["detail"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/act", "hello"),
        ("/act", ""),
        ("/act", '{"state": [0, 0, 0]}'),
        ("/act", '{"state": [0, 0, 0, "x"]}'),
        ("/nowhere", ""),
        ("/" + "a" * 500, ""),
    ],
)
def test_what_looks_like_nothing_known_gets_no_hint(
    client: TestClient, path: str, body: str
) -> None:
    assert ";" not in client.post(path, content=body).json()["detail"]
