"""A line of the log for each request that failed, and for all others where that is asked for."""

import logging
import re
from collections.abc import Callable

from service.errors import ServiceError
from service.observability.observers import FinishedRequest

log = logging.getLogger("upright.request")

# W3C Trace Context: version, trace, parent, flags.
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


class RequestLog:
    """Writes the lines of finished requests."""

    def __init__(self, digest: Callable[[], str], *, every: bool, states: bool) -> None:
        self._digest = digest  # of the bundle served now, for requests that no policy answered
        self._every = every
        self._states = states

    def __call__(self, request: FinishedRequest, trace_id: str | None = None) -> None:
        """Log the request with its trace's id, which is its caller's if none is given."""
        has_failed = request.failure is not None
        if not (has_failed or self._every):
            return

        inference = request.inference
        fields: dict[str, object] = {
            "endpoint": request.endpoint,
            "method": request.method,
            "status": int(request.status),
            "seconds": round(request.seconds, 6),
            "request_id": request.request_id.decode(),
            "trace_id": trace_id or _trace_id(request),
            "digest": self._digest() if inference is None else inference.policy.bundle.digest,
        }
        if inference is not None:
            if len(inference.actions) == 1:
                fields["action"] = inference.actions[0]
            fields["states"] = list(inference.states) if self._states else len(inference.states)
        fields = {name: value for name, value in fields.items() if value is not None}

        if has_failed:
            error = request.failure
            is_expected = isinstance(error, ServiceError)
            log.error(
                "request %s failed: %s",
                fields["request_id"],
                error,
                exc_info=None if is_expected else error,
                extra=fields,
            )
        else:
            log.info("request", extra=fields)


def _trace_id(request: FinishedRequest) -> str | None:
    header = next((value for name, value in request.headers if name == b"traceparent"), b"")
    match = _TRACEPARENT.fullmatch(header)
    return None if match is None else match[1].decode()
