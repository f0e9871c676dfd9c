"""The ids that requests go by, in answers, logs and the record."""

import os
import re
from itertools import count

# Visible ASCII is safe in a header and in a line of the log.
_ACCEPTABLE = re.compile(rb"[\x21-\x7e]{1,128}")


class RequestIds:
    """Gives each request its id: its caller's, or a new one.

    A new id is 64 random bits for the process, then a count; a random id each time would cost ten
    times as much.
    """

    def __init__(self) -> None:
        self._process = os.urandom(8).hex().encode()
        self._count = count()

    def of(self, requested: bytes | None) -> bytes:
        """Return the id that the caller asked for if it can be echoed, else a new one."""
        if requested is not None and _ACCEPTABLE.fullmatch(requested):
            return requested
        return b"%s%016x" % (self._process, next(self._count))
