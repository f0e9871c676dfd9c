"""What a call returns: the policy's decision, or the fallback's with the reason for it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

Reason = Literal[
    "deadline",  # no answer came in time
    "disconnected",  # there is no connection, or it ended before the answer
    "pool-timeout",  # other calls of this client used every connection until the deadline
    "invalid-response",  # what came is no answer of this service
    "other-bundle",  # the answer came from another bundle than the pinned one
    "denied",  # the service does not answer to this client's key: 401 or 403
    "out-of-range",  # a state is outside what training saw, which the client or service refuses
    "refused",  # the service refused the request: a problem with another status from 400 to 499
    "failed",  # the service failed: a problem with a status of 500 or above
    "closed",  # the client was closed
]


class Failure(NamedTuple):
    """Why a call has no answer of the policy."""

    reason: Reason
    detail: str  # in words for people


class Decision(NamedTuple):
    """The action for one state, and who chose it."""

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
    """A fallback: the action that the policy chose last, for any caller; `first` before that."""

    first: int


Fallback = int | LastAction | Callable[[tuple[float, ...]], int]


@dataclass(frozen=True, slots=True)
class Counters:
    """What happened so far: a copy, which does not change any more."""

    answers: int  # decisions by the policy
    fallbacks: dict[
        Reason, int
    ]  # decisions by the fallback; a reason that never occurred is absent
    late_answers: int  # answers that came after their call had ended, and were not used
    reconnects: int  # connections that replaced a lost one

    @property
    def deadline_misses(self) -> int:
        """Decisions for which no answer came in time."""
        return self.fallbacks.get("deadline", 0)
