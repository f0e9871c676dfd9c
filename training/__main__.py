"""`python -m training`: train, evaluate and export."""

import os
import sys
from collections.abc import Sequence

from models.programs import allow_any_terminal, explain_missing_library, silent_interrupts


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 failed, 130 interrupted.

    It is 3 where all was done but standard output took no text. Exits by itself with 2 where what
    was typed is no command.
    """
    allow_any_terminal()
    # Threads do not make networks this small faster; the variable counts before NumPy is imported.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        with silent_interrupts():
            from training.commands.dispatch import dispatch

        return dispatch(sys.argv[1:] if arguments is None else arguments)
    except ModuleNotFoundError as error:  # as where the service alone is installed
        remedy = "make setup, then .venv/bin/python -m training"
        sys.stderr.write(f"python -m training: {explain_missing_library(error, remedy)}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
