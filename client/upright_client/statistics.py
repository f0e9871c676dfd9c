"""What a client counts and remembers over all of its calls. Safe to use from several threads."""

import threading

from upright_client.decision import Counters, Failure, Reason


class CallStatistics:
    """Counters, the policy's last action, and the last error."""

    def __init__(self, first_action: int) -> None:
        self._lock = threading.Lock()
        self._answers = 0
        self._late_answers = 0
        self._reconnects = 0
        self._fallbacks: dict[Reason, int] = {}

        self.last_action = first_action
        self.last_error = ""  # what the last fallback or failed connection was about

    def counters(self) -> Counters:
        """Return a copy of the counters."""
        with self._lock:
            return Counters(
                self._answers, dict(self._fallbacks), self._late_answers, self._reconnects
            )

    def count_answers(self, number: int, last_action: int) -> None:
        """Count decisions by the policy; `last_action` is the action of the last of them."""
        with self._lock:
            self._answers += number
            self.last_action = last_action

    def count_fallback(self, failure: Failure) -> None:
        """Count one decision by the fallback."""
        with self._lock:
            self._fallbacks[failure.reason] = self._fallbacks.get(failure.reason, 0) + 1
            self.last_error = failure.detail

    def count_late_answer(self) -> None:
        """Count an answer that came after its call had ended."""
        with self._lock:
            self._late_answers += 1

    def count_reconnect(self) -> None:
        """Count a connection that replaced a lost one."""
        with self._lock:
            self._reconnects += 1

    def record_error(self, failure: Failure) -> None:
        """Remember what went wrong, where no decision comes of it."""
        self.last_error = failure.detail
