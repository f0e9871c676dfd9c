"""Gives memory back to the system when many connections have gone.

The allocator keeps what was freed for the next time, and what lies in reference cycles waits for
the garbage collector, which counts what is made, not what is left. Without this both would keep a
crowd's memory until the next crowd.
"""

import ctypes
import gc

CROWD = 200  # connections gone: fewer are not worth a pause of a few milliseconds
CHECKS_UNTIL_SECOND_TRIM = 20  # the last connections of a crowd go after the rest


class MemoryTrimmer:
    """Watches the number of connections."""

    def __init__(self) -> None:
        self._peak = 0
        self._checks_left = 0  # until memory is given back once more
        self._malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc alone has it

    def check(self, connections: int) -> None:
        """Give memory back when a crowd has gone, and once more when its last connections have."""
        self._peak = max(self._peak, connections)
        if self._peak - connections >= CROWD and connections <= self._peak // 8:
            self._peak = connections
            self._checks_left = CHECKS_UNTIL_SECOND_TRIM
            self._trim()
        elif self._checks_left:
            self._checks_left -= 1
            if not self._checks_left:
                self._trim()

    def _trim(self) -> None:
        gc.collect()
        if self._malloc_trim is not None:
            self._malloc_trim(0)
