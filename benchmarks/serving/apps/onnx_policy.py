"""The policy as each peer has it: the same ONNX file on one thread, and the action's name."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime

ACTIONS = ("left", "right")


class Model:
    """The ONNX file that MODEL in the environment names."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            os.environ["MODEL"], options, providers=["CPUExecutionProvider"]
        )

    def answer(self, state: Sequence[float]) -> dict[str, Any]:
        """Return what a peer answers for a state."""
        q_values = self._session.run(None, {"state": np.array([state], np.float32)})[0][0]
        action = int(q_values.argmax())
        return {"action": action, "action_name": ACTIONS[action], "q_values": q_values.tolist()}
