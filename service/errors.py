"""What a caller is told when a request cannot be answered.

REST renders these errors as a response; gRPC maps their status to a code.

ServiceError
├── ProblemError        of the service's own endpoints; rendered as a problem (RFC 9457)
└── OpenInferenceError  of the Open Inference Protocol; rendered as `{"error": …}`
"""

from collections.abc import Sequence
from http import HTTPStatus

from service.types import RawHeader


class ServiceError(Exception):
    """Raised when a request cannot be answered.

    Holds the HTTP status, the text for the caller, and headers that belong to the response.
    """

    def __init__(self, status: HTTPStatus, message: str, headers: Sequence[RawHeader] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers
