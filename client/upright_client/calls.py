"""The calls of a client: what each one sends, and what becomes of the answer or of its absence."""

import itertools
import json
import os
from collections.abc import Sequence
from time import perf_counter

from upright_client.answers import Choice, Document, read_choice, read_choices, read_model
from upright_client.connections.pool import ConnectionPool
from upright_client.decision import Decision, Failure, Fallback, LastAction, Model
from upright_client.errors import NoAnswerError
from upright_client.protocols.protocol import ACT, ACT_BATCH, MODEL, READY, Request
from upright_client.state import (
    State,
    check_action,
    check_deadline,
    check_seconds,
    check_state,
    check_states,
)
from upright_client.statistics import CallStatistics
from upright_client.text import printable

# The second one is made at once, on another connection: only by using one is it found out that the
# service closed it while it was idle.
ATTEMPTS = 2

# What the body of an answer may have, in bytes: so little that reading it fits into a deadline.
ANSWER_LIMIT = 32_768
ROW_LIMIT = 512  # for each state of a batch; a usual row has 150
MODEL_LIMIT = 4_194_304


class Calls:
    """The calls of one client, over the pool that each is given."""

    def __init__(
        self,
        deadline: float,
        fallback: Fallback,
        pin_digest: str | None,
        strict: bool,
        statistics: CallStatistics,
    ) -> None:
        self._deadline = deadline
        self._fallback = fallback
        self._pin_digest = pin_digest
        self._strict = strict
        self._end = b',"strict":true}' if strict else b"}"
        self._statistics = statistics
        # The first number is random, so that no answer to an earlier program is taken for one to
        # this.
        self._seqs = itertools.count(int.from_bytes(os.urandom(4)) << 20)

    async def act(self, pool: ConnectionPool, state: State) -> Decision:
        """Return the decision for one state. Raises `TypeError` or `ValueError` for misuse."""
        start = perf_counter()
        numbers = check_state(state)
        seq = next(self._seqs)
        body = b'{"state":[%b],"seq":%d%b' % (repr(numbers)[1:-1].encode(), seq, self._end)
        until = start + self._deadline

        outcome = await self._ask(pool, Request(ACT, body, seq, ANSWER_LIMIT), until)
        choice = outcome if isinstance(outcome, Failure) else read_choice(outcome)
        failure = choice if isinstance(choice, Failure) else self._objection(choice.digest, until)
        if failure is not None:
            return self._fall_back(numbers, failure, start)
        assert isinstance(choice, Choice)  # noqa: S101 - a choice that is no failure
        self._statistics.count_answers(1, choice.action)
        return _decision(choice, start)

    async def act_batch(
        self, pool: ConnectionPool, states: Sequence[State], deadline: float | None
    ) -> list[Decision]:
        """Return a decision for each state: all come from the policy, or none does.

        Raises `TypeError` or `ValueError` for misuse.
        """
        start = perf_counter()
        rows = check_states(states)
        if not rows:
            return []
        seq = next(self._seqs)
        body = json.dumps({"states": rows, "seq": seq, "strict": self._strict}).encode()
        if deadline is not None:
            check_deadline(deadline)
        until = start + (self._deadline if deadline is None else deadline)

        request = Request(ACT_BATCH, body, seq, ANSWER_LIMIT + ROW_LIMIT * len(rows))
        outcome = await self._ask(pool, request, until)
        choices = outcome if isinstance(outcome, Failure) else read_choices(outcome, len(rows))
        failure = (
            choices if isinstance(choices, Failure) else self._objection(choices[-1].digest, until)
        )
        if failure is not None:
            return [self._fall_back(row, failure, start) for row in rows]
        assert not isinstance(choices, Failure)  # noqa: S101 - choices that are no failure
        self._statistics.count_answers(len(choices), choices[-1].action)
        return [_decision(choice, start) for choice in choices]

    async def model(self, pool: ConnectionPool, seconds: float) -> Model:
        """Return the bundle that the service serves. Raises `NoAnswerError`."""
        request = Request(MODEL, b"", None, MODEL_LIMIT)
        outcome = await self._ask(pool, request, perf_counter() + check_seconds("timeout", seconds))
        model = outcome if isinstance(outcome, Failure) else read_model(outcome)
        if isinstance(model, Failure):
            self._statistics.record_error(model)
            raise NoAnswerError(model)
        return model

    async def ready(self, pool: ConnectionPool, seconds: float) -> bool:
        """Return whether the service says that it is ready."""
        request = Request(READY, b"", None, ANSWER_LIMIT)
        outcome = await self._ask(pool, request, perf_counter() + check_seconds("timeout", seconds))
        if isinstance(outcome, Failure):
            self._statistics.record_error(outcome)
            return False
        return outcome.get("status") == "ready"

    async def _ask(
        self, pool: ConnectionPool, request: Request, until: float
    ) -> Document | Failure:
        """Return the service's answer, or why there is none."""
        outcome: Document | Failure = Failure("disconnected", "no attempt was made")
        for _ in range(ATTEMPTS):
            connection = await pool.acquire(until)
            if isinstance(connection, Failure):
                return connection
            try:
                outcome = await connection.ask(request, until)
            finally:
                pool.release(connection)
            if not isinstance(outcome, Failure) or outcome.reason != "disconnected":
                break
        return outcome

    def _objection(self, digest: str, until: float) -> Failure | None:
        """Return why an answer of the policy must not be used, if it must not."""
        if self._pin_digest is not None and digest != self._pin_digest:
            detail = f"{printable(digest)} answered, {self._pin_digest} is pinned"
            return Failure("other-bundle", detail)
        if perf_counter() > until:
            self._statistics.count_late_answer()
            return Failure("deadline", "the answer was not read before the deadline")
        return None

    def _fall_back(self, numbers: tuple[float, ...], failure: Failure, start: float) -> Decision:
        if isinstance(self._fallback, LastAction):
            action = self._statistics.last_action
        elif callable(self._fallback):
            action = check_action(self._fallback(numbers))
        else:
            action = self._fallback
        self._statistics.count_fallback(failure)
        round_trip = perf_counter() - start
        return Decision(action, (), None, (), "fallback", failure.reason, round_trip)


def _decision(choice: Choice, start: float) -> Decision:
    return Decision(
        choice.action,
        choice.q_values,
        choice.digest,
        choice.out_of_range,
        "policy",
        None,
        perf_counter() - start,
    )
