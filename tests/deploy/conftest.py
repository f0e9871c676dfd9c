"""What the tests of deploy/ share."""

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from models.bundle import Bundle
from service.inference.loading import load
from service.server.application import create_application
from service.state import ServiceState
from tests.support.metrics import STATE
from tests.support.service import settings


@pytest.fixture(scope="session")
def exposed_metrics(committed: Bundle) -> set[str]:
    """Return the names of all samples that the service exposes."""
    application = create_application(settings(), ServiceState(load(committed, "onnx")))
    with TestClient(application) as client:
        client.post("/act", json={"state": STATE})  # a label's counter is there once it counts
        text = client.get("/metrics").text
    return {
        sample.name for family in text_string_to_metric_families(text) for sample in family.samples
    }
