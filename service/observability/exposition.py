"""The metrics as Prometheus reads them."""

import importlib.metadata
import platform
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING

from service.endpoints import LABELS, OTHER_LABEL
from service.observability.metric_layout import EVENTS, GAUGES, Layout

if TYPE_CHECKING:
    from prometheus_client import Metric

EXPOSITION_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def exposition(
    layout: Layout,
    rows: Sequence[Sequence[float]],
    bundle: Mapping[str, str],
    *,
    ready: bool,
) -> bytes:
    """Return the sum of the processes' rows as text.

    `bundle` holds the labels that describe the bundle served; it is empty while there is none.
    """
    # Imported by the first scrape: it takes 50 ms, for which no start needs to wait.
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.registry import Collector

    total = [sum(slots) for slots in zip(*rows, strict=True)]
    started = min(row[layout.started] for row in rows if row[layout.started])
    pids = [int(row[layout.pid]) for row in rows if row[layout.pid]]

    class Counts(Collector):
        def collect(self) -> Iterator["Metric"]:
            yield from _requests(layout, total)
            yield from _decisions(layout, total)
            yield from _process(bundle, ready, started)
            yield from _resources(pids)
            yield from _events(layout, total)
            yield from _gauges(layout, total)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Counts())
    return generate_latest(registry)


def _requests(layout: Layout, total: Sequence[float]) -> Iterator["Metric"]:
    from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

    requests = CounterMetricFamily(
        "upright_requests",
        "requests by endpoint and status; 499 is a client that went away",
        labels=("endpoint", "status"),
    )
    seconds = HistogramMetricFamily(
        "upright_request_seconds",
        "from a request's headers to the last byte of its answer, handed to the server",
        labels=("endpoint",),
    )
    for endpoint in LABELS:
        first = layout.requests[endpoint]
        if not any(total[first : first + len(layout.statuses)]):  # most are never asked for
            continue
        for status, index in layout.statuses.items():
            if count := total[first + index]:
                requests.add_metric((endpoint, str(status)), count)
        histogram = layout.request_seconds[endpoint]
        seconds.add_metric((endpoint,), histogram.buckets(total), total[histogram.sum])

    yield requests
    yield seconds


def _decisions(layout: Layout, total: Sequence[float]) -> Iterator["Metric"]:
    from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

    inference = HistogramMetricFamily(
        "upright_inference_seconds", "one run of the policy, over one state or a batch"
    )
    histogram = layout.inference_seconds
    inference.add_metric((), histogram.buckets(total), total[histogram.sum])
    yield inference

    actions = CounterMetricFamily("upright_actions", "actions chosen", labels=("action",))
    for index, name in enumerate(layout.actions):
        actions.add_metric((name,), total[layout.first_action + index])
    yield actions

    out_of_range = CounterMetricFamily(
        "upright_out_of_range", "state values outside what training saw", labels=("value",)
    )
    for name, slot in layout.out_of_range.items():
        if name != OTHER_LABEL or total[slot]:
            out_of_range.add_metric((name,), total[slot])
    yield out_of_range


def _process(bundle: Mapping[str, str], ready: bool, started: float) -> Iterator["Metric"]:
    from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily

    if bundle:
        yield InfoMetricFamily("upright_bundle", "the bundle that is served", value=dict(bundle))
    yield InfoMetricFamily("upright_build", "the service and what it runs on", value=_build())
    yield GaugeMetricFamily(
        "upright_ready",
        "1: takes requests; 0: waits for its bundle, or was told to stop, and drains",
        value=ready,
    )
    # The usual name for it, which dashboards know. Of several processes the oldest counts.
    yield GaugeMetricFamily(
        "process_start_time_seconds",
        "when the service began to count, in seconds since 1970",
        value=started,
    )


def _resources(pids: Sequence[int]) -> Iterator["Metric"]:
    """Give the CPU time, memory and open files of the processes, summed, by their usual names.

    A process that has ended takes its CPU time with it: to Prometheus the counter begins anew.
    """
    from prometheus_client.process_collector import ProcessCollector

    families: dict[str, Metric] = {}
    for pid in pids:
        for family in ProcessCollector(pid=partial(int, pid), registry=None).collect():
            if family.name == "process_start_time_seconds":
                continue  # told above, by a clock that follows the system's
            known = families.setdefault(family.name, family)
            if known is not family:
                sample = known.samples[0]
                value = sample.value + family.samples[0].value
                known.samples[0] = sample._replace(value=value)
    yield from families.values()


def _gauges(layout: Layout, total: Sequence[float]) -> Iterator["Metric"]:
    from prometheus_client.core import GaugeMetricFamily

    for name, gauge in GAUGES.items():
        family = GaugeMetricFamily(name, gauge.meaning, labels=(gauge.label,))
        for value in gauge.values:
            family.add_metric((value,), total[layout.gauges[name, value]])
        yield family


def _events(layout: Layout, total: Sequence[float]) -> Iterator["Metric"]:
    from prometheus_client.core import CounterMetricFamily

    for name, event in EVENTS.items():
        family = CounterMetricFamily(name, event.meaning, labels=(event.label,))
        for value in event.values:
            family.add_metric((value,), total[layout.events[name, value]])
        yield family


@cache
def _build() -> dict[str, str]:
    """Return what the service runs on; to read it from the disk takes a third of a scrape."""
    return {
        "version": _version("upright"),
        "python": platform.python_version(),
        "onnxruntime": _version("onnxruntime"),
    }


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:  # the environment was made without it
        return "unknown"
