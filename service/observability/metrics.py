"""Metrics: what was answered and how long it took, in; Prometheus text out. Knows nothing of routes and of ASGI.

prometheus_client writes the text, but does not count: its counters take a lock and cost up to two thirds of a microsecond each, and a
request has six. Here a count is one slot in a row of 64-bit floats. Each process adds to a row of its own and a scrape adds up the
rows, so that several processes behind one port answer any scrape with the sum of all.
"""

import fcntl
import importlib.metadata
import mmap
import os
import platform
import time
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from service.endpoints import LABELS, OTHER_LABEL

if TYPE_CHECKING:
    from prometheus_client import Metric

GONE = 499  # nothing was answered: the client went away first (nginx's number for it)
STATUSES = (200, 304, 400, 401, 403, 404, 405, 409, 412, 413, 422, 429, GONE, 500, 501, 503, 504)
EXPOSITION_TYPE = "text/plain; version=0.0.4; charset=utf-8"
REQUEST_BOUNDS = tuple(
    us / 1e6
    for us in (
        10,
        20,
        35,
        50,
        75,
        100,
        150,
        200,
        350,
        500,
        1e3,
        2e3,
        5e3,
        1e4,
        2e4,
        5e4,
        1e5,
        2e5,
        5e5,
        1e6,
    )
)
INFERENCE_BOUNDS = tuple(
    us / 1e6
    for us in (2, 3.5, 5, 7.5, 10, 15, 20, 35, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 5e4, 1e5)
)
# What happens seldom: a counter's name and meaning, its one label, and the values that the label may have.
EVENTS = {
    "upright_refused_requests": (
        "requests refused before they had a endpoint",
        "why",
        ("not-http", "head-too-large"),
    ),
    "upright_slow_requests": (
        "requests given up because they came too slowly",
        "part",
        ("head", "body"),
    ),
    "upright_keys": ("requests refused for their key", "outcome", ("missing", "unknown", "scope")),
    "upright_reloads": (
        "attempts to put another bundle in the place of the one served",
        "outcome",
        ("loaded", "unchanged", "refused"),
    ),
    "upright_shadow_states": (
        "states that the shadow was to answer; `disagreed` is without those that differ widely",
        "outcome",
        ("agreed", "disagreed", "disagreed_widely", "failed", "dropped"),
    ),
    "upright_shadow_seconds": (
        "inference of single states that were timed on both policies",
        "policy",
        ("live", "shadow"),
    ),
    "upright_shadow_timed": ("single states that were timed on both policies", "kind", ("states",)),
    "upright_record_rows": (
        "decisions by what became of them in the record",
        "outcome",
        ("written", "dropped"),
    ),
}
ROWS = 128  # processes that can count at the same time: twice the most workers, for each may be starting its successor


class Metrics:
    """The counts of this process, and of those that share `file` with it."""

    def __init__(
        self, actions: Sequence[str], state: Sequence[str], file: Path | None = None
    ) -> None:
        self._actions = actions
        self._statuses = {status: index for index, status in enumerate((*STATUSES, OTHER_LABEL))}
        # A row: requests by endpoint and status, request seconds by endpoint, inference seconds, actions, values out of
        # range, events, when the process began. A histogram is its buckets and its sum.
        self._requests = {
            endpoint: index * len(self._statuses) for index, endpoint in enumerate(LABELS)
        }
        first = len(LABELS) * len(self._statuses)
        width = len(REQUEST_BOUNDS) + 2
        self._seconds = {endpoint: first + index * width for index, endpoint in enumerate(LABELS)}
        self._inference = first + len(LABELS) * width
        self._chosen = self._inference + len(INFERENCE_BOUNDS) + 2
        self._outside = {
            name: self._chosen + len(actions) + index
            for index, name in enumerate((*state, OTHER_LABEL))
        }
        first = self._chosen + len(actions) + len(self._outside)
        self._events: dict[tuple[str, str], int] = {}
        for name, (_, _, values) in EVENTS.items():
            for value in values:
                self._events[name, value] = first + len(self._events)
        self._started = first + len(self._events)
        self._width = self._started + 1
        self._map, row = self._private() if file is None else self._shared(file)
        self._slots = memoryview(self._map).cast("d")
        self._own = self._slots[row * self._width : (row + 1) * self._width]
        self._own[self._started] = time.time()

    def _private(self) -> tuple[mmap.mmap, int]:
        return mmap.mmap(-1, self._width * 8), 0

    def _shared(self, file: Path) -> tuple[mmap.mmap, int]:
        """Take a row that no living process holds: a process that replaces a dead one goes on counting where that one stopped."""
        self._file = os.open(file, os.O_RDWR)  # kept open: closing it would give the row back
        os.ftruncate(self._file, ROWS * self._width * 8)
        for row in range(ROWS):
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, row)
            except OSError:
                continue
            return mmap.mmap(self._file, ROWS * self._width * 8), row
        raise RuntimeError(f"{file}: all {ROWS} rows are taken by running processes")

    def observe_request(self, endpoint: str, status: int, seconds: float) -> None:
        """Count a request to `endpoint`, one of `LABELS`, and the seconds from its head to its last byte handed to the server."""
        own = self._own
        own[self._requests[endpoint] + self._statuses.get(status, len(STATUSES))] += 1
        first = self._seconds[endpoint]
        own[first + bisect_left(REQUEST_BOUNDS, seconds)] += 1
        own[first + len(REQUEST_BOUNDS) + 1] += seconds

    def observe_inference(
        self, seconds: float, actions: Sequence[int], out_of_range: Sequence[Sequence[str]]
    ) -> None:
        """Count one inference over some states, the actions that came of it, and the state values outside what training saw."""
        own = self._own
        own[self._inference + bisect_left(INFERENCE_BOUNDS, seconds)] += 1
        own[self._inference + len(INFERENCE_BOUNDS) + 1] += seconds
        if len(actions) == 1:
            own[self._chosen + actions[0]] += 1
            if not out_of_range[0]:
                return
        else:
            for action in range(len(self._actions)):
                own[self._chosen + action] += actions.count(action)
        for name in chain.from_iterable(out_of_range):
            own[self._outside.get(name, self._outside[OTHER_LABEL])] += 1

    def inc(self, event: str, value: str, times: float = 1) -> None:
        """Count one of `EVENTS` under one of its label's values."""
        self._own[self._events[event, value]] += times

    def count(self, event: str, value: str) -> float:
        """Return how often one of `EVENTS` happened, in all processes."""
        return sum(self._slots[self._events[event, value] :: self._width])

    def exposition(self, bundle: Mapping[str, str], *, ready: bool = True) -> bytes:
        """Return the sum over all processes as Prometheus text, with what describes the bundle served as labels."""
        # Imported by the first scrape: it takes a twentieth of a second that the start does not have to wait for.
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.registry import Collector

        metrics = self

        class Counts(Collector):
            def collect(self) -> Iterator["Metric"]:
                return metrics._collect(bundle, ready)

        registry = CollectorRegistry(auto_describe=False)
        registry.register(Counts())
        return generate_latest(registry)

    def _collect(self, labels: Mapping[str, str], ready: bool) -> Iterator["Metric"]:
        from prometheus_client.core import (
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
            InfoMetricFamily,
        )

        slots = self._slots.tolist()
        total = [sum(slots[column :: self._width]) for column in range(self._width)]

        def buckets(first: int, bounds: tuple[float, ...]) -> tuple[list[tuple[str, float]], float]:
            names = [*(f"{bound:.7g}" for bound in bounds), "+Inf"]
            return [
                (name, sum(total[first : first + index + 1])) for index, name in enumerate(names)
            ], total[first + len(bounds) + 1]

        requests = CounterMetricFamily(
            "upright_requests",
            "requests by endpoint and status; 499 is a client that went away",
            labels=("endpoint", "status"),
        )
        seconds = HistogramMetricFamily(
            "upright_request_seconds",
            "from a request's head to its last byte handed to the server",
            labels=("endpoint",),
        )
        for endpoint in LABELS:
            for status, index in self._statuses.items():
                if count := total[self._requests[endpoint] + index]:
                    requests.add_metric((endpoint, str(status)), count)
            counts, spent = buckets(self._seconds[endpoint], REQUEST_BOUNDS)
            if counts[-1][1]:
                seconds.add_metric((endpoint,), counts, spent)
        inference = HistogramMetricFamily(
            "upright_inference_seconds", "one run of the policy, over one state or a batch"
        )
        inference.add_metric((), *buckets(self._inference, INFERENCE_BOUNDS))
        actions = CounterMetricFamily("upright_actions", "actions chosen", labels=("action",))
        for index, name in enumerate(self._actions):
            actions.add_metric((name,), total[self._chosen + index])
        outside = CounterMetricFamily(
            "upright_out_of_range", "state values outside what training saw", labels=("value",)
        )
        for name, column in self._outside.items():
            if name != OTHER_LABEL or total[column]:
                outside.add_metric((name,), total[column])
        bundle = InfoMetricFamily("upright_bundle", "the bundle that is served", value=dict(labels))
        build = InfoMetricFamily("upright_build", "the service and what it runs on", value=_build())
        readiness = GaugeMetricFamily(
            "upright_ready", "1: takes requests; 0: was told to stop, and drains", value=ready
        )
        # The usual name for it, which dashboards know: when the oldest of the processes began.
        oldest = min(filter(None, slots[self._started :: self._width]))
        started = GaugeMetricFamily(
            "process_start_time_seconds",
            "when the service began to count, in seconds since 1970",
            value=oldest,
        )
        yield from (
            requests,
            seconds,
            inference,
            actions,
            outside,
            bundle,
            build,
            readiness,
            started,
        )
        for name, (meaning, label, values) in EVENTS.items():
            event = CounterMetricFamily(name, meaning, labels=(label,))
            for value in values:
                event.add_metric((value,), total[self._events[name, value]])
            yield event


def _build() -> dict[str, str]:
    versions = {name: _version(name) for name in ("upright", "onnxruntime")}
    return {
        "version": versions["upright"],
        "python": platform.python_version(),
        "onnxruntime": versions["onnxruntime"],
    }


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except (
        importlib.metadata.PackageNotFoundError
    ):  # a checkout whose environment was made without it
        return "unknown"
