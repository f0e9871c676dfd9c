"""Decisions: what a call gives back, and what it falls back to. Knows nothing of connections."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

Reason = Literal[
    "deadline",  # no answer came in time
    "disconnected",  # there is no connection, or it ended before the answer
    "busy",  # other calls of this client used every connection until the deadline
    "garbage",  # what came was no answer of this service
    "other-bundle",  # the answer came from another bundle than the pinned one
    "denied",  # the service does not answer to this client's key: 401 or 403
    "refused",  # the service refused the request: a problem with another status from 400 to 499
    "failed",  # the service failed: a problem with a status of 500 or above
    "closed",  # the client was closed
]


class NoAnswerError(Exception):
    """Raised by `model`, never by `act`: the service gave no answer that can be used. `reason` says why."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


class Decision(NamedTuple):
    """What to do in one state, and who said so."""

    action: int
    q_values: tuple[float, ...]  # empty in a fallback
    digest: str | None  # of the bundle that answered; none in a fallback
    out_of_range: tuple[str, ...]  # names of the state values outside what training saw
    source: Literal["policy", "fallback"]
    reason: Reason | None  # why it is a fallback
    round_trip: float  # seconds that the call took


@dataclass(frozen=True, slots=True)
class Model:
    """The bundle that the service serves."""

    digest: str
    backend: str
    manifest: dict[str, object]


@dataclass(frozen=True, slots=True)
class LastAction:
    """A fallback: the action that the policy chose last, whoever asked; `first` before it has chosen any."""

    first: int


Fallback = int | LastAction | Callable[[tuple[float, ...]], int]


@dataclass(frozen=True, slots=True)
class Counters:
    """What happened so far: a copy, which does not change any more."""

    answers: int  # decisions by the policy
    fallbacks: dict[
        Reason, int
    ]  # decisions by the fallback; a reason that never occurred is absent
    late_answers: int  # recognised by their seq and thrown away
    reconnects: int  # connections that replaced a lost one

    @property
    def deadline_misses(self) -> int:
        """Decisions for which no answer came in time."""
        return self.fallbacks.get("deadline", 0)
