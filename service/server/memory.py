"""Memory: the number of connections in; what many of them had taken goes back to the system once they have gone.

The allocator keeps what was freed for the next time, and what lies in circles waits for the garbage collector, which counts what is made,
not what is left. After a crowd of clients both would keep its memory until the next crowd.
"""

import ctypes
import gc

CROWD = (
    200  # connections gone since there were most: fewer are not worth a pause of a few milliseconds
)
AFTERWARDS = 20  # looks after a crowd has gone until the last of it have gone, too


class Memory:
    """Knows how many connections there were."""

    def __init__(self) -> None:
        self._most = 0
        self._looks = 0  # until memory is given back once more
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's own

    def tidy(self, connections: int) -> None:
        """Give back what a crowd has left, when one has gone and when its last have gone."""
        self._most = max(self._most, connections)
        if self._most - connections >= CROWD and connections <= self._most // 8:
            self._most, self._looks = connections, AFTERWARDS
            self._give_back()
        elif self._looks:
            self._looks -= 1
            if not self._looks:
                self._give_back()

    def _give_back(self) -> None:
        gc.collect()
        if self._trim is not None:
            self._trim(0)
