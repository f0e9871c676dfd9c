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

    def q_values(self, states: Any) -> Any:
        """Return the Q-values, (n, 2), of states, (n, 4)."""
        return self._session.run(None, {"state": np.asarray(states, np.float32)})[0]

    def answer(self, state: Sequence[float]) -> dict[str, Any]:
        """Return what a peer answers for a state."""
        q_values = self.q_values([state])[0]
        action = int(q_values.argmax())
        return {"action": action, "action_name": ACTIONS[action], "q_values": q_values.tolist()}

    def answers(self, states: Sequence[Sequence[float]]) -> dict[str, Any]:
        """Return what a peer answers for several states."""
        q_values = self.q_values(states)
        actions = q_values.argmax(axis=1).tolist()
        return {
            "actions": actions,
            "action_names": [ACTIONS[action] for action in actions],
            "q_values": q_values.tolist(),
        }

    def answer_document(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to `{"state": …}` or `{"states": …}`."""
        return (
            self.answers(request["states"])
            if "states" in request
            else self.answer(request["state"])
        )
