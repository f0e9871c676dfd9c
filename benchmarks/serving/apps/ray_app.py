"""Ray Serve: one replica, the HTTP proxy that comes with it."""

import sys
import time
from typing import Any

from onnx_policy import Model
from ray import serve
from starlette.requests import Request


@serve.deployment(num_replicas=1, max_ongoing_requests=100)
class Act:
    """States in, answers out."""

    def __init__(self) -> None:
        self.model = Model()

    async def __call__(self, request: Request) -> dict[str, Any]:
        """Answer the request's states."""
        return self.model.answer_document(await request.json())


if __name__ == "__main__":
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Act.bind(), route_prefix="/act")
    while True:
        time.sleep(60)
