"""LitServe, one worker, no batching."""

import sys
from typing import Any

import litserve
from onnx_policy import Model


class Act(litserve.LitAPI):
    """States in, answers out."""

    def setup(self, device: str) -> None:
        """Load the model in the worker."""
        self.model = Model()

    def decode_request(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return a request as it is."""
        return request

    def predict(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer the request's states."""
        return self.model.answer_document(request)

    def encode_response(self, answer: dict[str, Any]) -> dict[str, Any]:
        """Return the answer as it is."""
        return answer


if __name__ == "__main__":
    server = litserve.LitServer(Act(api_path="/act"), accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[1]),
        num_api_servers=1,
        generate_client_file=False,
        log_level="error",
    )
