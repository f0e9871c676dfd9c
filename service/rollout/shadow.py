"""The shadow: a second policy that answers the same states after their answers have left, unseen.

A request meets it in one append to a queue. A thread looks there every so often and answers what it
finds in small blocks, so that it never holds the interpreter for longer than a request takes. When
the queue is full, states are dropped and counted.
"""

import logging
import time
from collections import deque
from threading import Event, Thread
from time import thread_time

import numpy as np
from pydantic import BaseModel, Field

from service.inference.errors import PolicyError
from service.inference.policy import Inference, Policy
from service.observability.metrics import Metrics
from service.state import ServiceState

QUEUE_LIMIT = 16_384  # states that wait; the largest batch that is answered by default fits in
POLL_SECONDS = 0.05  # between two looks at the queue
BLOCK_SIZE = 64  # states that are compared at once, where they came one by one

log = logging.getLogger("uvicorn.error")


class ShadowReport(BaseModel):
    """How the shadow's answers compare with those given, over all processes since the start."""

    model: str = Field(description="name of the shadow's bundle")
    digest: str = Field(description="identity of the shadow's bundle")
    live: str = Field(description="identity of the bundle that is served")
    compared: int = Field(description="states that both answered")
    agreed: int = Field(description="states for which both chose the same action")
    disagreed: int = Field(description="states for which they did not")
    disagreed_widely: int = Field(
        description="of these, those whose Q-values lie at least `margin` apart"
        " in the answer that was given"
    )
    margin: float = Field(description="gap between the two highest Q-values")
    failed: int = Field(
        description="states to which the shadow had no finite answer, or none at all"
    )
    dropped: int = Field(
        description="states that the shadow was not asked for, because too many waited"
    )
    live_seconds: float | None = Field(
        description="mean inference time of the answers given to single states;"
        " none if there was none"
    )
    shadow_seconds: float | None = Field(
        description="mean processor time of the shadow for a single state; none if none was timed"
    )


class Shadow:
    """A policy that is compared with the one that is served."""

    def __init__(self, policy: Policy, service_state: ServiceState, margin: float) -> None:
        self.policy = policy
        self._service_state = service_state
        self._metrics: Metrics = service_state.metrics
        self._margin = margin
        self._queue: deque[Inference] = deque()
        # States that were put into the queue and taken out; each number is written by one thread.
        self._put_count = self._taken_count = 0
        self._stopping = Event()
        self._has_logged_failure = False
        self._thread = Thread(target=self._run, name="shadow", daemon=True)

    def start(self) -> None:
        """Compare from now on."""
        self._service_state.observers.observe_inferences(self.enqueue)
        self._thread.start()

    def stop(self) -> None:
        """Compare no more."""
        self._service_state.observers.forget_inferences(self.enqueue)
        self._stopping.set()

    def enqueue(self, inference: Inference, _: str) -> None:
        """Put an inference into the queue, or drop it. Never waits."""
        states = len(inference.states)
        if self._put_count - self._taken_count + states > QUEUE_LIMIT:
            self._metrics.inc("upright_shadow_states", "dropped", states)
            return
        self._put_count += states
        self._queue.append(inference)

    def report(self) -> ShadowReport:
        """Return the comparison so far."""
        count = self._metrics.count
        agreed, disagreed, widely, failed, dropped = (
            int(count("upright_shadow_states", outcome))
            for outcome in ("agreed", "disagreed", "disagreed_widely", "failed", "dropped")
        )
        timed = count("upright_shadow_timed", "states")
        bundle = self.policy.bundle
        return ShadowReport(
            model=bundle.manifest.name,
            digest=bundle.digest,
            live=self._service_state.policy.bundle.digest,
            compared=agreed + disagreed + widely,
            agreed=agreed,
            disagreed=disagreed + widely,
            disagreed_widely=widely,
            margin=self._margin,
            failed=failed,
            dropped=dropped,
            live_seconds=count("upright_shadow_seconds", "live") / timed if timed else None,
            shadow_seconds=count("upright_shadow_seconds", "shadow") / timed if timed else None,
        )

    # The shadow's own thread

    def _run(self) -> None:
        while not self._stopping.wait(POLL_SECONDS):
            while self._queue and not self._stopping.is_set():
                block = self._take_block()
                self._answer(block)
                self._taken_count += sum(len(inference.states) for inference in block)
                time.sleep(0)  # lets the thread that answers requests go on

    def _take_block(self) -> list[Inference]:
        """Take the next inference, and as many more as make a block."""
        block = [self._queue.popleft()]
        states = len(block[0].states)
        while self._queue and states + len(self._queue[0].states) <= BLOCK_SIZE:
            block.append(self._queue.popleft())
            states += len(block[-1].states)
        return block

    def _answer(self, block: list[Inference]) -> None:
        try:
            self._compare(block)
            if len(block[0].states) == 1:
                self._measure_time(block[0])
        except Exception as error:
            if len(block) > 1:
                for inference in block:  # one bad state must not cost the others their comparison
                    self._answer([inference])
                return
            self._metrics.inc("upright_shadow_states", "failed", len(block[0].states))
            self._log_first_failure(error)

    def _log_first_failure(self, error: Exception) -> None:
        if self._has_logged_failure:
            return
        self._has_logged_failure = True
        log.error(
            "the shadow %s failed: %s",
            self.policy.bundle.digest,
            error,
            exc_info=None if isinstance(error, PolicyError) else error,
        )

    def _compare(self, block: list[Inference]) -> None:
        states = [state for inference in block for state in inference.states]
        actions = [action for inference in block for action in inference.actions]
        q_values = [row for inference in block for row in inference.q_values]
        shadow_actions = self.policy.decide(np.array(states, np.float32)).actions

        different = [row for row, action in enumerate(shadow_actions) if action != actions[row]]
        widely = sum(_action_gap(q_values[row]) >= self._margin for row in different)
        for outcome, times in (
            ("agreed", len(states) - len(different)),
            ("disagreed", len(different) - widely),
            ("disagreed_widely", widely),
        ):
            self._metrics.inc("upright_shadow_states", outcome, times)

    def _measure_time(self, inference: Inference) -> None:
        """Answer one state by itself, as the service does: a block's time says little of that."""
        started = thread_time()  # of the processor: on the clock this thread waits for the other
        self.policy.decide_one(inference.states[0])
        self._metrics.inc("upright_shadow_seconds", "shadow", thread_time() - started)
        self._metrics.inc("upright_shadow_seconds", "live", inference.seconds)
        self._metrics.inc("upright_shadow_timed", "states")


def _action_gap(q_values: list[float]) -> float:
    """Return how far the two highest Q-values are apart."""
    best, second = sorted(q_values)[:-3:-1]
    return best - second
