"""Types that several packages of the service share."""

from collections.abc import Callable
from typing import NamedTuple

Body = bytes | bytearray  # of a request; a bytearray where it came in many pieces
RawHeader = tuple[bytes, bytes]  # name in small letters, value

OnWritten = Callable[[], None]  # is called once an answer has been handed to the kernel
Write = Callable[[bytes, OnWritten], None]  # takes an answer's bytes and what follows them


class Totals(NamedTuple):
    """What all processes have inferred since the service began."""

    inferences: int
    states: int
    seconds: float  # that the inferences took
    failures: int  # requests that failed by a fault of the service or the policy
    last: float  # when the last inference ended, in seconds since 1970; 0 where there was none
