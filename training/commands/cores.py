"""How many processor cores this program may use."""

import os


def usable_cores() -> int:
    """Return the number of cores that the system lets this process run on."""
    if hasattr(os, "sched_getaffinity"):  # on Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
