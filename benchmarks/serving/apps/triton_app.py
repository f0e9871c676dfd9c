"""Triton's Python backend: one instance, no dynamic batching."""

from typing import Any

import numpy as np
import triton_python_backend_utils as utils
from onnx_policy import Model


class TritonPythonModel:
    """One state in, the Q-values out, by the Open Inference Protocol."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model."""
        self.model = Model()

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request."""
        answers = []
        for request in requests:
            state = utils.get_input_tensor_by_name(request, "state").as_numpy()
            q_values = np.array([self.model.answer(state[0])["q_values"]], np.float32)
            answers.append(utils.InferenceResponse([utils.Tensor("q_values", q_values)]))
        return answers
