"""Which of its time-outs a connection has passed."""

import random
from enum import Enum, auto
from time import perf_counter

from service.server.http.request import Phase
from service.settings import Settings

AGE_SPREAD = 0.1  # of the age: connections that were made together do not end together
LINGER_SECONDS = 2.0  # in which a client can read why its connection ends, before it is closed


class Expired(Enum):
    """The time-out that has passed."""

    UNREAD_ANSWERS = auto()  # the client takes nothing of the answers that wait for it
    KEEP_ALIVE = auto()
    INCOMPLETE_REQUEST = auto()
    LINGER = auto()


class ConnectionAge:
    """How old a connection is."""

    def __init__(self) -> None:
        self._began = perf_counter()
        self._factor = random.uniform(1 - AGE_SPREAD, 1 + AGE_SPREAD)  # noqa: S311 - no secret depends on it

    def exceeds(self, limit: float, now: float) -> bool:
        """Return whether the connection is older than `limit` seconds, more or less; 0: never."""
        return limit > 0 and now - self._began > limit * self._factor


class Timeouts:
    """The time-outs of one connection."""

    def __init__(self) -> None:
        self._unsent = 0  # bytes of answers that the client had not taken at the last check
        self._progress_at = 0.0  # when they last became fewer

    def expired(
        self, phase: Phase, waited: float, now: float, unsent: int, settings: Settings
    ) -> Expired | None:
        """Return the time-out that a connection has passed.

        It has been in its phase for `waited` seconds at `now`, and `unsent` bytes of its answers
        wait for the client. A client that takes them slowly makes progress; one that takes none for
        `body_timeout` seconds does not.
        """
        if not self._unsent or unsent < self._unsent:
            self._progress_at = now
        self._unsent = unsent
        if unsent and now - self._progress_at > settings.body_timeout:
            return Expired.UNREAD_ANSWERS

        match phase:
            case Phase.IDLE if waited > settings.keep_alive and not unsent:
                return Expired.KEEP_ALIVE
            case Phase.READING_HEADERS if waited > settings.header_timeout:
                return Expired.INCOMPLETE_REQUEST
            case Phase.READING_BODY if waited > settings.body_timeout:
                return Expired.INCOMPLETE_REQUEST
            case Phase.CLOSING if waited > LINGER_SECONDS:
                return Expired.LINGER
        return None
