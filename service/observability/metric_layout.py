"""What is counted, and which slot of a process's row holds which count.

A row is a run of 64-bit floats; see `metrics`. Slots are given out in the order of this file, and
every process of a service gives them out alike.
"""

from collections.abc import Sequence
from typing import NamedTuple

from service.endpoints import LABELS, OTHER_LABEL

CLIENT_CLOSED_REQUEST = 499  # nginx's number: the client went away before it was answered
STATUSES = (
    *(200, 304, 400, 401, 403, 404, 405, 409, 412, 413, 422, 429),
    *(CLIENT_CLOSED_REQUEST, 500, 501, 503, 504),
)


def _seconds(*microseconds: float) -> tuple[float, ...]:
    return tuple(each / 1e6 for each in microseconds)


REQUEST_BOUNDS = _seconds(
    *(10, 20, 35, 50, 75, 100, 150, 200, 350, 500),
    *(1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6),
)
INFERENCE_BOUNDS = _seconds(
    *(2, 3.5, 5, 7.5, 10, 15, 20, 35, 50, 100, 200, 500),
    *(1e3, 2e3, 5e3, 1e4, 5e4, 1e5),
)


class Event(NamedTuple):
    """A counter of what happens seldom: it has one label, whose values are known."""

    meaning: str
    label: str
    values: tuple[str, ...]


EVENTS = {
    "upright_refused_requests": Event(
        "requests refused before their endpoint was known",
        "reason",
        ("not-http", "headers-too-large"),
    ),
    "upright_slow_requests": Event(
        "requests aborted because they came too slowly; part is what had not come",
        "part",
        ("headers", "body"),
    ),
    "upright_keys": Event(
        "requests refused for their key", "outcome", ("missing", "unknown", "scope")
    ),
    "upright_reloads": Event(
        "attempts to serve another bundle",
        "outcome",
        ("loaded", "unchanged", "refused", "unavailable"),  # there is nothing to go back to
    ),
    "upright_shadow_states": Event(
        "states that the shadow was to answer; disagreed is without those that differ widely",
        "outcome",
        ("agreed", "disagreed", "disagreed_widely", "failed", "dropped"),
    ),
    "upright_shadow_seconds": Event(
        "inference of single states that were timed on both policies", "policy", ("live", "shadow")
    ),
    "upright_shadow_timed": Event(
        "single states that were timed on both policies", "kind", ("states",)
    ),
    "upright_record_rows": Event(
        "decisions by what became of them in the record", "outcome", ("written", "dropped")
    ),
}


class Gauge(NamedTuple):
    """A number of things that there are now: it has one label, whose values are known."""

    meaning: str
    label: str
    values: tuple[str, ...]


GAUGES = {
    "upright_in_flight": Gauge(
        "requests that have begun to come and are not answered, but for health and metrics",
        "kind",
        ("http", "grpc"),
    ),
    "upright_connections": Gauge(
        "open connections: of HTTP, streams of /act/stream, and streams of calls over gRPC",
        "kind",
        ("http", "stream", "grpc_stream"),
    ),
}


class Histogram:
    """The slots of a histogram: a count for each bucket, one for what is above them, the sum."""

    def __init__(self, first: int, bounds: tuple[float, ...]) -> None:
        self.first = first
        self.bounds = bounds
        self.sum = first + len(bounds) + 1

    def buckets(self, row: Sequence[float]) -> list[tuple[str, float]]:
        """Return each bound, as Prometheus writes it, and how many were at most so much."""
        names = [*(f"{bound:.7g}" for bound in self.bounds), "+Inf"]
        return [
            (name, sum(row[self.first : self.first + index + 1]))
            for index, name in enumerate(names)
        ]


class Layout:
    """Which slot of a row holds what. `width` is the number of slots."""

    def __init__(self, actions: Sequence[str], state: Sequence[str]) -> None:
        self.width = 0
        self.actions = tuple(actions)

        # Requests by endpoint and status: the endpoint's first slot, and the status's place there.
        labels: tuple[int | str, ...] = (*STATUSES, OTHER_LABEL)
        self.statuses = {status: index for index, status in enumerate(labels)}
        self.requests = {endpoint: self._add(len(self.statuses)) for endpoint in LABELS}

        self.request_seconds = {label: self._add_histogram(REQUEST_BOUNDS) for label in LABELS}
        self.inference_seconds = self._add_histogram(INFERENCE_BOUNDS)

        self.first_action = self._add(len(self.actions))  # the others follow in their order
        self.out_of_range = {name: self._add() for name in (*state, OTHER_LABEL)}
        self.events = {
            (name, value): self._add() for name, event in EVENTS.items() for value in event.values
        }
        self.gauges = {
            (name, value): self._add() for name, gauge in GAUGES.items() for value in gauge.values
        }
        self.pid = self._add()
        self.started = self._add()  # when the process began, in seconds since 1970
        self.started_uptime = self._add()  # the same, in seconds since the machine began
        self.last_inference = self._add()  # when the last one ended, in seconds since 1970

    def _add(self, slots: int = 1) -> int:
        """Give out slots; return the first."""
        first = self.width
        self.width += slots
        return first

    def _add_histogram(self, bounds: tuple[float, ...]) -> Histogram:
        return Histogram(self._add(len(bounds) + 2), bounds)
