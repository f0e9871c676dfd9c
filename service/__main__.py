"""`python -m service`: reads what was typed and runs that command."""

import gc
import signal
import sys
from collections.abc import Sequence

from models.programs import (
    INTERRUPTED,
    allow_any_terminal,
    explain_missing_library,
    silent_interrupts,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; 2 where what was typed or set is wrong."""
    # First of all, since the imports take a third of a second: a SIGHUP that comes before there is
    # anything to reload waits until there is.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    # The imports make many objects and no garbage: looking for some takes 3 % of the start.
    gc.disable()
    allow_any_terminal()
    try:
        with silent_interrupts():
            from service.commands.dispatch import run
    except ModuleNotFoundError as error:
        remedy = "make serve, or .venv/bin/python -m service"
        sys.stderr.write(f"upright: {explain_missing_library(error, remedy)}\n")
        return 1

    try:
        return run(sys.argv[1:] if arguments is None else list(arguments))
    except KeyboardInterrupt:
        sys.stderr.write("upright: interrupted\n")
        return INTERRUPTED
    finally:
        # As it ends, Python gives signals that have a handler their default action: one that came
        # in that moment would kill a process that has done its work.
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)


if __name__ == "__main__":
    sys.exit(main())
