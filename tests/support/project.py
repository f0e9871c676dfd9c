"""Places in the project, and what tests give in place of the clock."""

from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parents[2]


COMMITTED = ROOT / "models" / "cartpole-dqn"


CREATED = datetime(2026, 1, 2, tzinfo=UTC)
