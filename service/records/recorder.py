"""Recording beside the answers: a queue of decisions, and a thread that writes them."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from service.inference.policy import Inference, Policy
from service.observability.metrics import Metrics
from service.observability.observers import Observers
from service.records.schema import RecordError, Values
from service.records.writer import Limits, Writer
from service.settings import Settings

COMMIT_SECONDS = 0.05  # between two commits: a killed process loses that, and what it was writing
QUEUE_LIMIT = 65_536  # states that wait to be written; more are dropped

log = logging.getLogger("uvicorn.error")  # the log of the server


class Recorder:
    """The queue between the answers and the record, and the thread that empties it.

    Decisions wait by the policy that made them. The thread that answers appends to the newest
    queue; the recorder's thread takes from the left of all.
    """

    def __init__(self, open_writer: Callable[[], Writer], metrics: Metrics) -> None:
        self._open_writer = open_writer  # may raise RecordError, now and later
        self._writer: Writer | None = None  # opened for the first decisions
        self._metrics = metrics
        self._policy: Policy | None = None  # of the newest queue
        self._queue: deque[Values] = deque()
        self._queues: deque[tuple[Policy, deque[Values]]] = deque()
        self._refused = 0  # decisions for which there was no room
        self._refused_in_metrics = 0  # as many of them as the metrics know of
        self._is_failing = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    def record(self, inference: Inference, request_id: str) -> None:
        """Queue an answered inference, or count it where too many wait.

        Only the thread that answers may call it. It never waits.
        """
        now = time.time()
        policy, states, q_values, actions, out_of_range, _, seq = inference
        if policy is not self._policy:
            self._begin_queue(policy)

        queue = self._queue
        if len(queue) + len(actions) > QUEUE_LIMIT:
            self._refused += len(actions)
            return

        if len(actions) == 1:  # nearly always, and quicker than the loop
            (state,), (q,), (action,), (names,) = states, q_values, actions, out_of_range
            joined = ",".join(names) if names else None
            queue.append((now, request_id, seq, 0, *state, *q, action, joined))
            return

        rows = zip(states, q_values, actions, out_of_range, strict=True)
        for row, (state, q, action, names) in enumerate(rows):
            joined = ",".join(names) if names else None
            queue.append((now, request_id, seq, row, *state, *q, action, joined))

    def _begin_queue(self, policy: Policy) -> None:
        self._policy, self._queue = policy, deque()
        self._queues.append((policy, self._queue))

    def stop(self) -> None:
        """Write what waits, and end."""
        self._stopping.set()
        self._thread.join()
        if self._writer is not None:
            self._writer.close()

    def _run(self) -> None:
        while not self._stopping.wait(COMMIT_SECONDS):
            self._write()
        self._write()

    def _write(self) -> None:
        """Write all decisions that wait, and count what became of them."""
        decisions = self._take()
        if decisions:
            count = sum(len(rows) for _, rows in decisions)
            try:
                if self._writer is None:
                    self._writer = self._open_writer()
                self._writer.write(decisions)
            except RecordError as error:
                self._metrics.inc("upright_record_rows", "dropped", count)
                if not self._is_failing:
                    log.error("decisions are not recorded until this is mended: %s", error)
                self._is_failing = True
            else:
                self._metrics.inc("upright_record_rows", "written", count)
                if self._is_failing:
                    log.warning("decisions are recorded again")
                self._is_failing = False

        refused = self._refused - self._refused_in_metrics
        if refused:
            self._metrics.inc("upright_record_rows", "dropped", refused)
            self._refused_in_metrics += refused

    def _take(self) -> list[tuple[Policy, list[Values]]]:
        """Return what waits, and forget the queues that nothing is appended to any more."""
        decisions = []
        for _ in range(len(self._queues)):
            # Looked at before the queue is emptied: only then is nothing appended afterwards.
            is_complete = len(self._queues) > 1
            policy, queue = self._queues[0]
            rows = [queue.popleft() for _ in range(len(queue))]
            if rows:
                decisions.append((policy, rows))
            if is_complete:
                self._queues.popleft()
        return decisions


@contextmanager
def recording(path: Path, settings: Settings, observers: Observers) -> Iterator[None]:
    """Record what is answered at `path` for as long as the block runs.

    That it can be written was checked at the start; if it cannot later, the log says so.
    """
    limits = Limits(settings.record_size, settings.record_age, settings.record_keep)
    recorder = Recorder(partial(Writer, path, limits), observers.metrics)
    observers.observe_inferences(recorder.record)
    try:
        yield
    finally:
        observers.forget_inferences(recorder.record)
        recorder.stop()
