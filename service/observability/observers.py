"""Who is told of what the service did: of every inference, and of requests that have ended.

Whatever answers requests reports here, once the answer has been handed to the server. Observers run
in the thread that answers, so they must return at once, and never raise.
"""

from collections.abc import Callable, Collection
from typing import NamedTuple

from service.inference.policy import Inference
from service.observability.metrics import Metrics


class FinishedRequest(NamedTuple):
    """A request that has ended, and how."""

    endpoint: str  # one of the labels in `service.endpoints`
    method: str  # of HTTP, or the name of a gRPC call
    path: str
    status: int  # of HTTP, or the one that stands for gRPC's
    seconds: float
    request_id: bytes
    headers: Collection[tuple[bytes, bytes]]  # their names in small letters
    inference: Inference | None = None
    failure: Exception | None = None  # of the service; a request that it rightly refused has none


InferenceObserver = Callable[[Inference, str], None]  # is given the request's id too
RequestObserver = Callable[[FinishedRequest], None]


class Observers:
    """The metrics, which count everything, and those who have subscribed."""

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics
        self.wants_all_requests = False  # False: only requests that failed need be reported
        self._of_inferences: tuple[InferenceObserver, ...] = ()
        self._of_requests: tuple[RequestObserver, ...] = ()

    def observe_inferences(self, observer: InferenceObserver) -> None:
        """Tell this observer of every inference from now on."""
        self._of_inferences = (*self._of_inferences, observer)

    def forget_inferences(self, observer: InferenceObserver) -> None:
        """Tell this observer no more."""
        self._of_inferences = tuple(each for each in self._of_inferences if each != observer)

    def observe_requests(self, observer: RequestObserver, *, all_requests: bool) -> None:
        """Tell this observer of finished requests: of all, or at least of those that failed."""
        self._of_requests = (*self._of_requests, observer)
        self.wants_all_requests = self.wants_all_requests or all_requests

    def on_inference(self, inference: Inference, request_id: bytes) -> None:
        """Count an inference whose answer has been handed to the server, and tell the observers."""
        self.metrics.observe_inference(inference.seconds, inference.actions, inference.out_of_range)
        for observer in self._of_inferences:
            observer(inference, request_id.decode())

    def on_request(self, request: FinishedRequest) -> None:
        """Tell the observers of a request that has ended. It is counted by `metrics` already."""
        for observer in self._of_requests:
            observer(request)
