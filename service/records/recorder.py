"""The recorder: answered inferences in, written to the record by a thread of its own. Knows nothing of SQLite."""

import logging
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.inference.policy import Inference, Policy
from service.observability.metrics import Metrics
from service.observability.observers import Observers
from service.records.store import Limits, RecordError, Values, Writer
from service.settings import Settings

INTERVAL = (
    0.05  # seconds between two commits: a killed process loses so much, and what was being written
)
WAITING = 65_536  # states that wait to be written; more are dropped

log = logging.getLogger("uvicorn.error")  # the server's own log, whose handlers uvicorn sets up


class Recorder:
    """The queue between the answers and the record, and the thread that empties it."""

    def __init__(self, writer: Writer, metrics: Metrics) -> None:
        self._writer = writer
        self._metrics = metrics
        # Decisions wait by the policy that made them. The answers' thread adds to the last queue, and to nothing else.
        self._policy: Policy | None = None
        self._queue: deque[Values] = deque()
        self._queues: deque[tuple[Policy, deque[Values]]] = deque()
        self._refused = self._counted = (
            0  # decisions for which there was no room, and as many of them as are in the metrics
        )
        self._failing = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    def watch(self, inference: Inference, request_id: str) -> None:
        """Take in an answered inference, or count it where too many wait. Called by one thread, and never waits."""
        now = time.time()
        policy, states, q_values, actions, out_of_range, _, seq = inference
        if policy is not self._policy:
            self._turn_to(policy)
        queue = self._queue
        if len(queue) + len(actions) > WAITING:
            self._refused += len(actions)
        elif len(actions) == 1:
            (state,), (q,), (action,), (names,) = states, q_values, actions, out_of_range
            queue.append(
                (now, request_id, seq, 0, *state, *q, action, ",".join(names) if names else None)
            )
        else:
            for row, (state, q, action, names) in enumerate(
                zip(states, q_values, actions, out_of_range, strict=True)
            ):
                queue.append(
                    (
                        now,
                        request_id,
                        seq,
                        row,
                        *state,
                        *q,
                        action,
                        ",".join(names) if names else None,
                    )
                )

    def _turn_to(self, policy: Policy) -> None:
        """Begin the queue of another policy."""
        self._policy, self._queue = policy, deque()
        self._queues.append((policy, self._queue))

    def stop(self) -> None:
        """Write what waits, and end."""
        self._stopping.set()
        self._thread.join()
        self._writer.close()

    def _run(self) -> None:
        while not self._stopping.wait(INTERVAL):
            self._write()
        self._write()

    def _write(self) -> None:
        if decisions := self._take():
            count = sum(len(rows) for _, rows in decisions)
            try:
                self._writer.write(decisions, time.time())
            except RecordError as error:
                self._metrics.inc("upright_record_rows", "dropped", count)
                if not self._failing:
                    log.error("decisions are not recorded until this is mended: %s", error)
                self._failing = True
            else:
                self._metrics.inc("upright_record_rows", "written", count)
                if self._failing:
                    log.warning("decisions are recorded again")
                self._failing = False
        if refused := self._refused - self._counted:
            self._metrics.inc("upright_record_rows", "dropped", refused)
            self._counted += refused

    def _take(self) -> list[tuple[Policy, list[Values]]]:
        """Return what waits, and forget the queues that nothing comes into any more."""
        taken = []
        for _ in range(len(self._queues)):
            complete = (
                len(self._queues) > 1
            )  # looked at first: only then nothing can come in that is not taken out here
            policy, queue = self._queues[0]
            if rows := [queue.popleft() for _ in range(len(queue))]:
                taken.append((policy, rows))
            if complete:
                self._queues.popleft()
        return taken


@contextmanager
def recording(path: Path, settings: Settings, observers: Observers) -> Iterator[None]:
    """Record what is answered at `path` for as long as the block runs. Raises `RecordError`."""
    writer = Writer(path, Limits(settings.record_size, settings.record_age, settings.record_keep))
    recorder = Recorder(writer, observers.metrics)
    observers.observe_inferences(recorder.watch)
    try:
        yield
    finally:
        observers.forget_inferences(recorder.watch)
        recorder.stop()
