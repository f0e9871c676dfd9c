"""TorchServe: a custom handler. torch runs nothing; the ONNX file is the same as everywhere."""

import json
from typing import Any

from onnx_policy import Model
from ts.torch_handler.base_handler import BaseHandler


class Act(BaseHandler):
    """One state in, the answer out."""

    def initialize(self, context: Any) -> None:
        """Load the model."""
        self.model = Model()
        self.initialized = True

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[dict[str, Any]]:
        """Answer each request."""
        return [self.model.answer(self._state(row.get("body") or row.get("data"))) for row in data]

    def _state(self, body: Any) -> list[float]:
        parsed = body if isinstance(body, dict) else json.loads(body)
        state: list[float] = parsed["state"]
        return state
