"""TorchServe: a custom handler. torch runs nothing; the ONNX file is the same as everywhere."""

import json
from typing import Any

from onnx_policy import Model
from ts.torch_handler.base_handler import BaseHandler


class Act(BaseHandler):
    """States in, answers out."""

    def initialize(self, context: Any) -> None:
        """Load the model."""
        self.model = Model()
        self.initialized = True

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[dict[str, Any]]:
        """Answer each request."""
        bodies = [row.get("body") or row.get("data") for row in data]
        return [
            self.model.answer_document(body if isinstance(body, dict) else json.loads(body))
            for body in bodies
        ]
