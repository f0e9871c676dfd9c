"""What is served: the policy that answers, whom it answers, and what follows. Every door reads the policy here, once a request."""

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from service.auth.keys import Keys
from service.observability.metrics import Metrics
from service.inference.policy import Policy, State
from service.rollout.bundle_store import Shelf
from service.auth.tls import Tls


class Inference(NamedTuple):
    """One run of a policy over some states, and what it answered, row by row."""

    policy: Policy
    states: Sequence[State]
    q_values: Sequence[list[float]]
    actions: Sequence[int]
    out_of_range: Sequence[list[str]]  # names of the state values outside what training saw
    seconds: float  # that the run took
    seq: int | None = None  # of the request, where its door has one


class Request(NamedTuple):
    """A request that has ended, and how."""

    door: str  # one of the metrics' doors
    method: str  # of HTTP, or the name of a gRPC call
    path: str
    status: int  # of HTTP, or the one that stands for gRPC's
    seconds: float
    request_id: bytes
    headers: Collection[tuple[bytes, bytes]]  # their names in small letters
    inference: Inference | None = None
    failure: Exception | None = None  # of the service; a request that it rightly refused has none


Watcher = Callable[[Inference, str], None]
RequestWatcher = Callable[[Request], None]


class Served:
    """The policy that is served now. Replacing it is one assignment: a request finishes on the policy that it began with."""

    def __init__(
        self,
        policy: Policy,
        metrics: Metrics | None = None,
        shadow: Policy | None = None,
        shelf: Shelf | None = None,
        keys: Keys | None = None,
        tls: Tls | None = None,
    ) -> None:
        self.policy = policy
        self.shadow = shadow  # what is to be compared with it, if anything
        self.shelf = shelf  # where the processes of the service agree on what they serve, if there are several
        self.keys = keys  # that open doors; none where every door is open
        self.tls = tls
        manifest = policy.bundle.manifest
        self.metrics = metrics or Metrics(
            manifest.actions, [value.name for value in manifest.state]
        )
        self.draining = False  # told to stop: still answers, but asks not to be sent more
        # Told of every inference and its request's id once the answer was handed to the server. They must return at once, and never raise.
        self.watchers: list[Watcher] = []
        # Told of requests that have ended: of all where `every` is set, else at least of those that failed.
        self.ended: RequestWatcher = lambda _: None
        self.every = False

    def exposition(self) -> bytes:
        """Return the metrics and what describes the policy as Prometheus text."""
        bundle = self.policy.bundle
        described = {
            "model": bundle.manifest.name,
            "version": bundle.manifest.version,
            "digest": bundle.digest,
        }
        return self.metrics.exposition(
            described | {"backend": self.policy.backend_name}, ready=not self.draining
        )

    def renew(self) -> None:
        """Read keys and certificate again, where there are any. It takes a millisecond, and belongs into the event loop's own thread."""
        for part in (self.keys, self.tls):
            if part is not None:
                part.reload()

    def answered(self, inference: Inference, request_id: bytes) -> None:
        """Count an inference whose answer has been handed to the server, and tell the watchers."""
        self.metrics.inferred(inference.seconds, inference.actions, inference.out_of_range)
        for watcher in self.watchers:
            watcher(inference, request_id.decode())
