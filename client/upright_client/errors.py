"""The exceptions of this package.

    Exception
    ├── NoAnswerError          raised to the program, by `model` alone
    ├── ProtocolError          what a peer sent is against its protocol
    │   └── AccessDeniedError  the service does not open a stream to this client's key
    └── OSError
        └── TimeoutError
            └── SendTimeoutError   not all of a request could be sent

Of these, a call raises `NoAnswerError` alone: the others become fallbacks, with the reasons
`invalid-response`, `denied`, `deadline` or `disconnected`. Misuse by the program raises `TypeError`
or `ValueError`.
"""

from upright_client.decision import Failure, Reason


class NoAnswerError(Exception):
    """Raised by `model`: the service gave no answer that can be used. `reason` says why."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"{failure.reason}: {failure.detail}")
        self.reason: Reason = failure.reason


class ProtocolError(Exception):
    """Raised when bytes do not follow the protocol: nothing after them can be trusted."""


class AccessDeniedError(ProtocolError):
    """Raised when the service answers the handshake of a stream with 401 or 403."""


class SendTimeoutError(TimeoutError):
    """Raised when a part of a request could not be sent before the deadline."""
