"""The OpenAPI document: the application in, docs/openapi.json out. `make openapi` runs it; a test holds the two together."""

import json
from pathlib import Path

from starlette.testclient import TestClient

from models import bundle
from service.inference.policy import load
from service.rest.app import create_app
from service.settings import Settings
from service.state import ServiceState

ROOT = Path(__file__).parents[1]
FILE = ROOT / "docs" / "openapi.json"


def document() -> str:
    """Return the application's OpenAPI document as it is committed."""
    app = create_app(
        Settings.model_validate({}),
        ServiceState(load(bundle.read(ROOT / "models" / "cartpole-dqn"), "onnx")),
    )
    with TestClient(app) as client:
        return json.dumps(client.get("/openapi.json").json(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(document())
