"""MLServer: a runtime of its own kind, with no worker processes."""

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from onnx_policy import Model


class Act(MLModel):
    """States in, the Q-values out, by the Open Inference Protocol."""

    async def load(self) -> bool:
        """Load the model."""
        self.model = Model()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer all states."""
        states = self.decode(payload.inputs[0], default_codec=NumpyCodec)
        q_values = self.model.q_values(states)
        return InferenceResponse(
            model_name=self.name, outputs=[NumpyCodec.encode_output("q_values", q_values)]
        )
