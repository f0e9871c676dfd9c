"""Writes docs/openapi.json from the application; `make openapi` runs it, and a test compares."""

import json

from starlette.testclient import TestClient

from models import bundle
from service.inference.loading import load
from service.server.application import create_application
from service.settings import Settings
from service.state import ServiceState
from tests.support.project import COMMITTED, ROOT

FILE = ROOT / "docs" / "openapi.json"


def document() -> str:
    """Return the application's OpenAPI document as it is committed."""
    service_state = ServiceState(load(bundle.read(COMMITTED), "onnx"))
    with TestClient(
        create_application(Settings.model_validate({}), service_state), "http://localhost"
    ) as client:
        return json.dumps(client.get("/openapi.json").json(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(document())
