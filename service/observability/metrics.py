"""Counting what was answered and how long it took.

prometheus_client writes the text of `GET /metrics`, but does not count: its counters take a lock
and cost up to two thirds of a microsecond each, and a request has six. Here a count is a slot in a
row of 64-bit floats. Each process adds to a row of its own, in a file that all map into memory, and
a scrape adds up the rows; so any of several processes behind one port answers with the sum of all.
"""

import fcntl
import mmap
import os
import time
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from itertools import chain
from pathlib import Path

from service.endpoints import OTHER_LABEL
from service.inference.policy import AllInRange
from service.observability.exposition import exposition
from service.observability.metric_layout import (
    INFERENCE_BOUNDS,
    REQUEST_BOUNDS,
    STATUSES,
    Layout,
)
from service.types import Totals

# Twice the most workers, since each may be starting its successor while it still counts.
ROW_COUNT = 128
SLOT_BYTES = 8
_REQUEST_SUM = len(REQUEST_BOUNDS) + 1  # place of a histogram's sum, after its buckets
_OTHER_STATUS = len(STATUSES)
CLOCK_STEP_SECONDS = 1.0  # by which a clock has not been slewed, but set


def _uptime() -> float:
    """Return the seconds since the machine began, which no setting of the clock changes."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Metrics:
    """The counts of this process, and of those that share `file` with it."""

    def __init__(
        self, actions: Sequence[str], state: Sequence[str], file: Path | None = None
    ) -> None:
        self._layout = Layout(actions, state)
        self._map, row = self._private_row() if file is None else self._shared_row(file)
        width = self._layout.width
        self._slots = memoryview(self._map).cast("d")
        self._row = self._slots[row * width : (row + 1) * width]
        for slot in self._layout.gauges.values():  # of a process that this one replaces
            self._row[slot] = 0
        self._row[self._layout.pid] = os.getpid()
        self._row[self._layout.started] = time.time()
        self._row[self._layout.started_uptime] = _uptime()

        # Looked up for every request, so they stand here and not one attribute further.
        self._statuses = self._layout.statuses
        self._requests = self._layout.requests
        self._request_seconds = {
            endpoint: histogram.first
            for endpoint, histogram in self._layout.request_seconds.items()
        }
        self._first_inference = self._layout.inference_seconds.first
        self._inference_sum = self._layout.inference_seconds.sum
        self._last_inference = self._layout.last_inference
        self._first_action = self._layout.first_action
        self._out_of_range = self._layout.out_of_range

    def _private_row(self) -> tuple[mmap.mmap, int]:
        return mmap.mmap(-1, self._layout.width * SLOT_BYTES), 0

    def _shared_row(self, file: Path) -> tuple[mmap.mmap, int]:
        """Lock a row that no living process has.

        A process that replaces a dead one goes on counting where that one stopped.
        """
        size = ROW_COUNT * self._layout.width * SLOT_BYTES
        self._file = os.open(file, os.O_RDWR)  # kept open: closing it would release the row
        os.ftruncate(self._file, size)
        for row in range(ROW_COUNT):
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, row)
            except OSError:
                continue
            return mmap.mmap(self._file, size), row
        raise RuntimeError(f"{file}: all {ROW_COUNT} rows are taken by running processes")

    def observe_request(self, endpoint: str, status: int, seconds: float) -> None:
        """Count a request to `endpoint`, one of `LABELS`.

        `seconds` is from its headers to the last byte of its answer, handed to the server.
        """
        row = self._row
        row[self._requests[endpoint] + self._statuses.get(status, _OTHER_STATUS)] += 1
        first = self._request_seconds[endpoint]
        row[first + bisect_left(REQUEST_BOUNDS, seconds)] += 1
        row[first + _REQUEST_SUM] += seconds

    def observe_inference(
        self, seconds: float, actions: Sequence[int], out_of_range: Sequence[Sequence[str]]
    ) -> None:
        """Count one inference: its actions, and the state values outside what training saw."""
        row = self._row
        row[self._first_inference + bisect_left(INFERENCE_BOUNDS, seconds)] += 1
        row[self._inference_sum] += seconds
        row[self._last_inference] = time.time()
        if len(actions) == 1:
            row[self._first_action + actions[0]] += 1
            if not out_of_range[0]:
                return
        else:
            for action in range(len(self._layout.actions)):
                row[self._first_action + action] += actions.count(action)

        if isinstance(out_of_range, AllInRange):
            return
        slots = self._out_of_range
        for name in chain.from_iterable(filter(None, out_of_range)):
            row[slots.get(name, slots[OTHER_LABEL])] += 1

    def inc(self, event: str, value: str, times: float = 1) -> None:
        """Count one of `EVENTS` under one of its label's values."""
        self._row[self._layout.events[event, value]] += times

    def add(self, gauge: str, value: str, change: int) -> None:
        """Change one of `GAUGES` under one of its label's values."""
        self._row[self._layout.gauges[gauge, value]] += change

    def count(self, event: str, value: str) -> float:
        """Return how often one of `EVENTS` happened, in all processes."""
        return sum(self._slots[self._layout.events[event, value] :: self._layout.width])

    def totals(self) -> Totals:
        """Return what was inferred and what failed, in all processes."""
        layout = self._layout

        def total(slots: Iterable[int]) -> float:
            return sum(sum(self._slots[slot :: layout.width]) for slot in slots)

        histogram = layout.inference_seconds
        failed = layout.statuses[HTTPStatus.INTERNAL_SERVER_ERROR]
        actions = range(layout.first_action, layout.first_action + len(layout.actions))
        return Totals(
            inferences=int(total(range(histogram.first, histogram.sum))),
            states=int(total(actions)),
            seconds=total([histogram.sum]),
            failures=int(total(first + failed for first in layout.requests.values())),
            last=max(self._slots[layout.last_inference :: layout.width]),
        )

    def _follow_clock(self) -> None:
        """Tell all processes' starts anew if the clock was set since.

        A board without a battery begins in 1970, and hears of the time later. While the clock is
        only slewed, what is told stays the same to the bit: a change would look like a restart.
        """
        layout = self._layout
        now, uptime = time.time(), _uptime()
        for row in range(0, len(self._slots), layout.width):
            lived = uptime - self._slots[row + layout.started_uptime]
            told = self._slots[row + layout.started]
            if told and abs(now - lived - told) > CLOCK_STEP_SECONDS:
                self._slots[row + layout.started] = now - lived

    def exposition(self, bundle: Mapping[str, str], *, ready: bool = True) -> bytes:
        """Return the sum over all processes as Prometheus text.

        `bundle` holds the labels that describe the bundle served; it is empty while there is none.
        """
        self._follow_clock()
        slots, width = self._slots.tolist(), self._layout.width
        rows = [slots[first : first + width] for first in range(0, len(slots), width)]
        return exposition(self._layout, rows, bundle, ready=ready)
