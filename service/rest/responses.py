"""Responses that tell the middleware around them what was inferred, or what failed.

The knowledge travels outwards with the response, in the message that starts it, as far as
`RequestMiddleware`, which takes it out: the server never sees it.
"""

from collections.abc import Sequence
from http import HTTPStatus
from typing import NamedTuple

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from service.api import problems
from service.endpoints import OPEN_INFERENCE_PREFIX, endpoint_of
from service.errors import ServiceError
from service.inference.policy import Inference
from service.types import RawHeader

OUTCOME = "upright.outcome"  # key in the message that starts a response


class Outcome(NamedTuple):
    """What the observers are told of a response beside its status."""

    inference: Inference | None = None
    failure: Exception | None = None  # of the service; a request that it rightly refused has none


class ObservedResponse(Response):
    """A response with its outcome."""

    def __init__(
        self,
        content: bytes,
        status: int,
        headers: Sequence[RawHeader],
        media_type: str,
        outcome: Outcome,
    ) -> None:
        decoded = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}
        super().__init__(content, status, decoded, media_type)
        self._outcome = outcome

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response, and its outcome with its first message."""

        async def send_with_outcome(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, OUTCOME: self._outcome}
            await send(message)

        await super().__call__(scope, receive, send_with_outcome)


def error_response(error: ServiceError, path: str) -> ObservedResponse:
    """Return an error as the endpoint at `path` renders it."""
    is_failure = error.status == HTTPStatus.INTERNAL_SERVER_ERROR
    outcome = Outcome(failure=error if is_failure else None)
    content, media_type = problems.render(error, endpoint_of(path).label)
    return ObservedResponse(content, error.status, error.headers, media_type, outcome)


def is_open_inference(path: str) -> bool:
    """Return whether requests to a path are answered by the Open Inference Protocol."""
    return endpoint_of(path).label == OPEN_INFERENCE_PREFIX
