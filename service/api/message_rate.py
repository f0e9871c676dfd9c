"""How many messages a stream may send in a second."""

from time import monotonic


class MessageRate:
    """Counts the messages of one stream, second by second."""

    def __init__(self, limit: int) -> None:
        """Keep the limit in messages a second; 0 is none."""
        self.limit = limit
        self._second = 0  # the one that is counted in
        self._count = 0  # messages in this second

    def is_exceeded(self) -> bool:
        """Count a message; return whether it is one too many."""
        if not self.limit:
            return False
        second = int(monotonic())
        if second != self._second:
            self._second, self._count = second, 0
        self._count += 1
        return self._count > self.limit
