"""The fast path: whole requests to `POST /act` and `POST /act/batch`, answered before ASGI.

The protocol hands in a whole request and gets the bytes of the whole answer, made by the functions
that the routes of the FastAPI application call. What is wrong with a body is answered here too,
since finding it a second time could take as long as the first. Failures of the service are left to
those routes, which log them. Tests hold both paths to the same answer, byte for byte.
"""

from collections.abc import Callable, Collection
from functools import partial
from http import HTTPStatus
from time import perf_counter

from service.api import problems
from service.api.act import Answer, act, act_batch
from service.api.problems import ProblemError
from service.endpoints import endpoint_of
from service.inference.policy import Inference, Policy
from service.observability.metric_layout import CLIENT_CLOSED_REQUEST
from service.observability.observers import FinishedRequest
from service.observability.request_ids import RequestIds
from service.rest.middleware.requests import ConcurrencyLimiter
from service.settings import Settings
from service.state import ServiceState
from service.types import Body, RawHeader, Write


class FastPath:
    """Answers whole requests with whole answers, at once."""

    def __init__(
        self,
        settings: Settings,
        service_state: ServiceState,
        ids: RequestIds,
        limiter: ConcurrencyLimiter,
    ) -> None:
        self.limiter = limiter
        self.body_limits = {  # bytes, by endpoint
            b"/act": settings.max_body,
            b"/act/batch": settings.max_batch_body,
        }
        self._service_state = service_state
        self._ids = ids
        self._functions: dict[bytes, Callable[[Policy, Body, str | None], Answer]] = {
            b"/act": act,
            b"/act/batch": partial(act_batch, max_batch=settings.max_batch),
        }
        self._scopes = {path: endpoint_of(path.decode()).scope for path in self._functions}
        # Where pages of other origins may call, every answer says that it could differ by origin.
        # What does differ, the answers to requests with an Origin, is left to the ASGI path.
        self._vary = b"vary: Origin\r\n" if settings.cors_origin else b""

    def allows(self, endpoint: bytes, headers: dict[bytes, bytes]) -> bool:
        """Return whether the caller's key is for the endpoint; asked before its body is read."""
        keys = self._service_state.keys
        return keys is None or keys.allows(headers.get(b"authorization"), self._scopes[endpoint])

    def answer(
        self,
        endpoint: bytes,
        headers: dict[bytes, bytes],
        body: Body,
        started: float,
        default_lines: bytes,
        write: Write,
    ) -> bool:
        """Write the answer to a POST to `endpoint`; return False if the ASGI path has to give it.

        `started`: when its first byte came, by `perf_counter`; answers begin with `default_lines`.
        """
        service_state = self._service_state
        if self._vary and b"origin" in headers:
            return False

        if_match = headers.get(b"if-match")
        try:
            content, ((etag, digest), (timing, duration)), inference = self._functions[endpoint](
                service_state.policy, body, None if if_match is None else if_match.decode("latin-1")
            )
        except ProblemError as problem:
            if problem.status == HTTPStatus.INTERNAL_SERVER_ERROR:
                return False
            self._refuse(problem, endpoint, headers, started, default_lines, write)
            return True
        except Exception:  # whatever it is, the ASGI path meets it too, answers it and logs it
            return False

        request_id = self._ids.of(headers.get(b"x-request-id"))
        write(
            b"HTTP/1.1 200 OK\r\n%b%b: %b\r\n%b: %b\r\ncontent-length: %d\r\n"
            b"content-type: application/json\r\n%bx-request-id: %b\r\n\r\n%b"
            % (
                default_lines,
                etag,
                digest,
                timing,
                duration,
                len(content),
                self._vary,
                request_id,
                content,
            ),
            partial(
                self._on_written, endpoint.decode(), 200, headers, started, request_id, inference
            ),
        )
        return True

    def _refuse(
        self,
        problem: ProblemError,
        endpoint: bytes,
        headers: dict[bytes, bytes],
        started: float,
        default_lines: bytes,
        write: Write,
    ) -> None:
        """Write what is wrong with a request."""
        status, content = problem.status, problem.body
        request_id = self._ids.of(headers.get(b"x-request-id"))
        write(
            b"HTTP/1.1 %d %b\r\n%b%bcontent-length: %d\r\n"
            b"content-type: %b\r\n%bx-request-id: %b\r\n\r\n%b"
            % (
                status,
                status.phrase.encode(),
                default_lines,
                b"".join(b"%b: %b\r\n" % header for header in problem.headers),
                len(content),
                problems.MEDIA_TYPE.encode(),
                self._vary,
                request_id,
                content,
            ),
            partial(
                self._on_written, endpoint.decode(), status, headers, started, request_id, None
            ),
        )

    def _on_written(
        self,
        endpoint: str,
        status: int,
        headers: dict[bytes, bytes],
        started: float,
        request_id: bytes,
        inference: Inference | None,
    ) -> None:
        """Count the request and tell the observers, once its answer is with the kernel."""
        seconds = perf_counter() - started
        service_state = self._service_state
        service_state.metrics.observe_request(endpoint, status, seconds)
        observers = service_state.observers
        if observers.wants_all_requests:
            raw_headers = headers.items()
            observers.on_request(
                FinishedRequest(
                    endpoint, "POST", endpoint, status, seconds, request_id, raw_headers, inference
                )
            )
        if inference is not None:
            observers.on_inference(inference, request_id)

    # Requests that nobody answers

    def client_gone(self, endpoint: bytes, headers: dict[bytes, bytes], started: float) -> None:
        """Count a request whose client went away before its body had come."""
        seconds = perf_counter() - started
        self._service_state.metrics.observe_request(
            endpoint.decode(), CLIENT_CLOSED_REQUEST, seconds
        )
        self.report_unread(CLIENT_CLOSED_REQUEST, "POST", endpoint, headers.items(), started)

    def report_unread(
        self,
        status: int,
        method: str,
        target: bytes,
        headers: Collection[RawHeader],
        started: float,
    ) -> None:
        """Report a request that was never read whole, if the observers want to know of all."""
        observers = self._service_state.observers
        if not observers.wants_all_requests:
            return
        path = target.partition(b"?")[0].decode("latin-1")
        id_header = next((value for name, value in headers if name == b"x-request-id"), None)
        observers.on_request(
            FinishedRequest(
                endpoint_of(path).label,
                method,
                path,
                status,
                perf_counter() - started,
                self._ids.of(id_header),
                headers,
            )
        )

    def count_slow(self, part: str) -> None:
        """Count a request of which a `part`, its headers or its body, did not come in time."""
        self._service_state.metrics.inc("upright_slow_requests", part)

    def count_refused(self, reason: str) -> None:
        """Count a request that was refused before its endpoint was known."""
        self._service_state.metrics.inc("upright_refused_requests", reason)
