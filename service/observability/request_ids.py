"""Request ids: the caller's own in, or a new one out. Knows nothing of ASGI."""

import os
import re
from itertools import count

_ACCEPTABLE = re.compile(
    rb"[\x21-\x7e]{1,128}"
)  # visible ASCII: safe in a header and in a log line


class RequestIds:
    """Names requests: 64 random bits for the process, then a count, at a tenth of the cost of a random id each time."""

    def __init__(self) -> None:
        self._process = os.urandom(8).hex().encode()
        self._count = count()

    def of(self, given: bytes | None) -> bytes:
        """Return the id that the caller gave if it can be echoed, else a new one."""
        if given is not None and _ACCEPTABLE.fullmatch(given):
            return given
        return b"%s%016x" % (self._process, next(self._count))
