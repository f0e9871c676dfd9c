"""Places in the project, and what tests give in place of the clock."""

from datetime import UTC, datetime
from pathlib import Path

from service.endpoints import ENDPOINTS, GRPC_LABEL

ROOT = Path(__file__).parents[2]


COMMITTED = ROOT / "models" / "cartpole-dqn"


CREATED = datetime(2026, 1, 2, tzinfo=UTC)
# Paths, over HTTP, of what changes the service.
CHANGING = [
    endpoint.path.format(name="cartpole-dqn")
    for endpoint in ENDPOINTS
    if endpoint.scope == "admin" and endpoint.label != GRPC_LABEL and endpoint.path != "/shadow"
]
