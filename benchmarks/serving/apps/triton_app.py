"""Triton's Python backend: one instance, no dynamic batching."""

from typing import Any

import triton_python_backend_utils as utils
from onnx_policy import Model


class TritonPythonModel:
    """States in, the Q-values out, by the Open Inference Protocol."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model."""
        self.model = Model()

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request."""
        answers = []
        for request in requests:
            states = utils.get_input_tensor_by_name(request, "state").as_numpy()
            q_values = self.model.q_values(states)
            answers.append(utils.InferenceResponse([utils.Tensor("q_values", q_values)]))
        return answers
