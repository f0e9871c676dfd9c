"""Types that several packages of the service share."""

from collections.abc import Callable

Body = bytes | bytearray  # of a request; a bytearray where it came in many pieces
RawHeader = tuple[bytes, bytes]  # name in small letters, value

OnWritten = Callable[[], None]  # is called once an answer has been handed to the kernel
Write = Callable[[bytes, OnWritten], None]  # takes an answer's bytes and what follows them
