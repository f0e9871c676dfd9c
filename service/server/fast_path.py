"""The fast path: whole requests to some endpoints, answered before ASGI.

The protocol hands in a whole request and gets the bytes of the whole answer, made by the functions
that the routes of the FastAPI application call. What is wrong with a body is answered here too,
since finding it a second time could take as long as the first. Failures of the service are left to
those routes, which log them. Tests hold both paths to the same answer, byte for byte.
"""

from collections.abc import Collection
from functools import partial
from http import HTTPStatus
from time import perf_counter

from service.api import problems
from service.api.fast_endpoints import FastEndpoint, FastEndpoints
from service.endpoints import endpoint_of
from service.errors import ServiceError
from service.inference.policy import Inference
from service.observability.metric_layout import CLIENT_CLOSED_REQUEST
from service.observability.observers import FinishedRequest
from service.observability.request_ids import RequestIds
from service.settings import Settings
from service.state import ServiceState
from service.types import Body, RawHeader, Write


class FastPath:
    """Answers whole requests with whole answers, at once."""

    def __init__(self, settings: Settings, service_state: ServiceState, ids: RequestIds) -> None:
        self._service_state = service_state
        self._ids = ids
        self._endpoints = FastEndpoints(settings)
        # Where pages of other origins may call, every answer says that it could differ by origin.
        # What does differ, the answers to requests with an Origin, is left to the ASGI path.
        self._vary = b"vary: Origin\r\n" if settings.cors_origin else b""

    def find(self, target: bytes) -> FastEndpoint | None:
        """Return the endpoint at a request's target, if its whole requests are answered here."""
        return self._endpoints.find(target, self._service_state.policy)

    def allows(self, endpoint: FastEndpoint, headers: dict[bytes, bytes]) -> bool:
        """Return whether the caller's key is for the endpoint; asked before its body is read."""
        keys = self._service_state.keys
        return keys is None or keys.allows(headers.get(b"authorization"), endpoint.scope)

    def answer(
        self,
        endpoint: FastEndpoint,
        headers: dict[bytes, bytes],
        body: Body,
        started: float,
        default_lines: bytes,
        write: Write,
    ) -> bool:
        """Write the answer to a POST to `endpoint`; return False if the ASGI path has to give it.

        `started`: when its first byte came, by `perf_counter`; answers begin with `default_lines`.
        """
        if self._vary and b"origin" in headers:
            return False

        try:
            content, media_type, header_lines, inference = endpoint.answer(
                self._service_state.policy, body, headers
            )
        except ServiceError as error:
            if error.status == HTTPStatus.INTERNAL_SERVER_ERROR:
                return False
            self._refuse(error, endpoint, headers, started, default_lines, write)
            return True
        except Exception:  # whatever it is, the ASGI path meets it too, answers it and logs it
            return False

        request_id = self._ids.of(headers.get(b"x-request-id"))
        write(
            b"HTTP/1.1 200 OK\r\n%b%bcontent-length: %d\r\n"
            b"content-type: %b\r\n%bx-request-id: %b\r\n\r\n%b"
            % (
                default_lines,
                header_lines,
                len(content),
                media_type.encode(),
                self._vary,
                request_id,
                content,
            ),
            partial(self._on_written, endpoint, 200, headers, started, request_id, inference),
        )
        return True

    def _refuse(
        self,
        error: ServiceError,
        endpoint: FastEndpoint,
        headers: dict[bytes, bytes],
        started: float,
        default_lines: bytes,
        write: Write,
    ) -> None:
        """Write what is wrong with a request."""
        content, media_type = problems.render(error, endpoint.label)
        request_id = self._ids.of(headers.get(b"x-request-id"))
        write(
            b"HTTP/1.1 %d %b\r\n%b%bcontent-length: %d\r\n"
            b"content-type: %b\r\n%bx-request-id: %b\r\n\r\n%b"
            % (
                error.status,
                error.status.phrase.encode(),
                default_lines,
                b"".join(b"%b: %b\r\n" % header for header in error.headers),
                len(content),
                media_type.encode(),
                self._vary,
                request_id,
                content,
            ),
            partial(self._on_written, endpoint, error.status, headers, started, request_id, None),
        )

    def _on_written(
        self,
        endpoint: FastEndpoint,
        status: int,
        headers: dict[bytes, bytes],
        started: float,
        request_id: bytes,
        inference: Inference | None,
    ) -> None:
        """Count the request and tell the observers, once its answer is with the kernel."""
        seconds = perf_counter() - started
        service_state = self._service_state
        service_state.metrics.observe_request(endpoint.label, status, seconds)
        observers = service_state.observers
        if observers.wants_all_requests:
            observers.on_request(
                FinishedRequest(
                    endpoint.label,
                    "POST",
                    endpoint.path,
                    status,
                    seconds,
                    request_id,
                    headers.items(),
                    inference,
                )
            )
        if inference is not None:
            observers.on_inference(inference, request_id)

    # Requests that nobody answers

    def client_gone(
        self, endpoint: FastEndpoint, headers: dict[bytes, bytes], started: float
    ) -> None:
        """Count a request whose client went away before its body had come."""
        seconds = perf_counter() - started
        self._service_state.metrics.observe_request(endpoint.label, CLIENT_CLOSED_REQUEST, seconds)
        path = endpoint.path.encode()
        self.report_unread(CLIENT_CLOSED_REQUEST, "POST", path, headers.items(), started)

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
