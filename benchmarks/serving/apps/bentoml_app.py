"""BentoML, one worker, an asynchronous API method."""

from typing import Any

import bentoml
from onnx_policy import Model


@bentoml.service(
    workers=1,
    traffic={"timeout": 10},
    logging={"access": {"enabled": False}},
    metrics={"enabled": True},
)
class Act:
    """States in, answers out."""

    def __init__(self) -> None:
        self.model = Model()

    @bentoml.api(route="/act")
    async def act(self, state: list[float]) -> dict[str, Any]:
        """Answer one state."""
        return self.model.answer(state)

    @bentoml.api(route="/act/batch")
    async def act_batch(self, states: list[list[float]]) -> dict[str, Any]:
        """Answer several states."""
        return self.model.answers(states)
