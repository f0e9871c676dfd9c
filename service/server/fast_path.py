"""Lanes: a request in, its answer out. Good requests to `/act` and `/act/batch` take the fast lane, everything else the general one.

The fast lane stands before ASGI: the protocol gives it a whole request, and it gives back the bytes of the whole answer, by calling what
the routes of the FastAPI application call. Whatever it cannot answer with a 200 it leaves to those routes. So there is one place that says
what is wrong with a request, and tests hold the lanes to the same answer, byte for byte.
"""

from collections.abc import Callable, Collection
from functools import partial
from time import perf_counter

from service.api import act as answers
from service.api.act import Answer
from service.endpoints import endpoint_of
from service.inference.policy import Inference, Policy
from service.observability.metrics import GONE
from service.observability.observers import FinishedRequest
from service.observability.request_ids import RequestIds
from service.rest.request_middleware import ConcurrencyLimiter
from service.settings import Settings
from service.state import ServiceState
from service.types import Write


class FastLane:
    """Answers whole requests with whole answers, at once."""

    def __init__(
        self, settings: Settings, service_state: ServiceState, ids: RequestIds, limiter: ConcurrencyLimiter
    ) -> None:
        self._service_state = service_state
        self._ids = ids
        self.limiter = limiter
        self._doors: dict[bytes, Callable[[Policy, bytes, str | None], Answer]] = {
            b"/act": answers.act,
            b"/act/batch": partial(answers.act_batch, max_batch=settings.max_batch),
        }
        self._keys = service_state.keys
        self._scopes = {door: endpoint_of(door.decode()).scope for door in self._doors}
        # Where pages of other origins may call, every answer says that it could differ, and what differs is the general lane's.
        self._vary = b"vary: Origin\r\n" if settings.cors_origin else b""
        self.limits = {
            b"/act": settings.max_body,
            b"/act/batch": settings.max_batch_body,
        }  # bytes that a body may have, by door

    def answer(
        self,
        door: bytes,
        head: dict[bytes, bytes],
        body: bytes,
        started: float,
        first: bytes,
        write: Write,
    ) -> bool:
        """Write the answer to a POST to `door`; returns False if the general lane has to give it.

        `started` is when the request's first byte had come, by `perf_counter`. `first` are header lines that come first.
        """
        service_state = self._service_state
        if self._keys is not None and not self._keys.allows(
            head.get(b"authorization"), self._scopes[door]
        ):
            return False
        if self._vary and b"origin" in head:
            return False
        if_match = head.get(b"if-match")
        try:
            content, own, inference = self._doors[door](
                service_state.policy, body, None if if_match is None else if_match.decode("latin-1")
            )
        except Exception:  # whatever it is, the general lane meets it too, and tells and logs it
            return False
        request_id = self._ids.of(head.get(b"x-request-id"))
        (tag, digest), (timing, took) = own
        write(
            b"HTTP/1.1 200 OK\r\n%b%b: %b\r\n%b: %b\r\ncontent-length: %d\r\ncontent-type: application/json\r\n%bx-request-id: %b\r\n\r\n%b"
            % (first, tag, digest, timing, took, len(content), self._vary, request_id, content),
            partial(self._ended, door.decode(), head, started, request_id, inference),
        )
        return True

    def _ended(
        self,
        door: str,
        head: dict[bytes, bytes],
        started: float,
        request_id: bytes,
        inference: Inference,
    ) -> None:
        service_state, seconds = self._service_state, perf_counter() - started
        service_state.metrics.observe_request(door, 200, seconds)
        if service_state.observers.wants_all_requests:
            service_state.observers.on_request(
                FinishedRequest(
                    door, "POST", door, 200, seconds, request_id, head.items(), inference
                )
            )
        service_state.observers.on_inference(inference, request_id)

    def gone(self, door: bytes, head: dict[bytes, bytes], started: float) -> None:
        """Count a request whose client went away before its body had come."""
        self._service_state.metrics.observe_request(door.decode(), GONE, perf_counter() - started)
        self.unread(GONE, "POST", door, head.items(), started)

    def unread(
        self,
        status: int,
        method: str,
        url: bytes,
        headers: Collection[tuple[bytes, bytes]],
        started: float,
    ) -> None:
        """Tell of a request that was never read whole, if all are told of."""
        if self._service_state.observers.wants_all_requests:
            path = url.partition(b"?")[0].decode("latin-1")
            request_id = self._ids.of(
                next((value for name, value in headers if name == b"x-request-id"), None)
            )
            self._service_state.observers.on_request(
                FinishedRequest(
                    endpoint_of(path).label,
                    method,
                    path,
                    status,
                    perf_counter() - started,
                    request_id,
                    headers,
                )
            )

    def slow(self, part: str) -> None:
        """Count a request that was given up because its `part`, head or body, did not come in time."""
        self._service_state.metrics.inc("upright_slow_requests", part)

    def refused(self, why: str) -> None:
        """Count a request that was refused before it had a door."""
        self._service_state.metrics.inc("upright_refused_requests", why)
