"""What a caller is told when a request cannot be answered. REST renders these errors, gRPC maps their status to a code.

ServiceError
├── ProblemError        of the service's own endpoints; rendered as a problem (RFC 9457)
└── OpenInferenceError  of the Open Inference Protocol; rendered as `{"error": …}`
"""

from http import HTTPStatus


class ServiceError(Exception):
    """Raised when a request gets no answer; holds the HTTP status and the text for the caller."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status
