"""What the service tells systemd, by the protocol of sd_notify(3).

Every message is one datagram to the Unix socket that the variable `NOTIFY_SOCKET` names. Where it
is not set, nothing is sent. Written here, since it is ten lines and the libraries for it are either
unmaintained or bind to libsystemd.
"""

import os
import socket
from time import CLOCK_MONOTONIC, clock_gettime_ns

READY = "READY=1"
STOPPING = "STOPPING=1"
ALIVE = "WATCHDOG=1"
STILL_STARTING = "EXTEND_TIMEOUT_USEC=10000000"  # a start takes as long as it says so


def notify(*assignments: str) -> None:
    """Send assignments such as `READY`. A supervisor that does not listen is no fault of ours."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        try:
            sender.setblocking(False)
            sender.sendto("\n".join(assignments).encode(), address.replace("@", "\0", 1))
        except OSError:
            return


def notify_reloading() -> None:
    """Say that a reload has begun; `READY` ends it."""
    notify("RELOADING=1", f"MONOTONIC_USEC={clock_gettime_ns(CLOCK_MONOTONIC) // 1_000}")
