"""Who validates: this process, between two steps, or a process of its own, beside them.

Both give the same results in the same order, so a policy does not depend on the number of cores.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol

from models.manifest import Plant
from training.population.validation import Check, CheckResult, prepare, validate

ROOT = Path(__file__).parents[2]
PATIENCE = 0.5  # seconds that training waits at its end before it shows again that it lives


class Validator(Protocol):
    """Does one check after the other."""

    @property
    def is_beside(self) -> bool:
        """Whether training may go on while a check is done."""
        ...

    def start(self, check: Check) -> None:
        """Begin a check; the one before has ended."""
        ...

    def poll(self, *, wait: bool) -> CheckResult | None:
        """Return the result of the check that was begun; none while it is not done.

        With `wait` nothing else is to be done: some tenths of a second may be spent on it.
        """
        ...


class InlineValidator:
    """Validates in this process: a part at each call of `poll`."""

    is_beside = False

    def __init__(self) -> None:
        self._parts: Iterator[CheckResult | None] = iter(())

    def start(self, check: Check) -> None:
        """Begin a check."""
        self._parts = validate(check)

    def poll(self, *, wait: bool) -> CheckResult | None:  # noqa: ARG002 - it always works
        """Do a part of the check; return its result after the last."""
        return next(self._parts)


class ValidatorProcess:
    """Validates in a process of its own, which ends with this one.

    Once that process is lost, as by a lack of memory, this one does what it would have done.
    """

    def __init__(self, plant: Plant) -> None:
        """Start the process, which prepares to validate policies for a plant."""
        self._connection, theirs = Pipe()
        self._check: Check | None = None
        self._instead: InlineValidator | None = None
        words = [sys.executable, "-m", __name__, str(theirs.fileno())]
        self._process = subprocess.Popen(  # noqa: S603 - fixed words
            words,
            cwd=ROOT,
            pass_fds=[theirs.fileno()],
            # Ctrl-C is for the training, which decides what still has to be validated.
            start_new_session=True,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        theirs.close()
        self._connection.send(plant)

    @property
    def process_id(self) -> int:
        """The process that validates."""
        return self._process.pid

    @property
    def is_beside(self) -> bool:
        """Whether that process is there."""
        return self._instead is None

    def start(self, check: Check) -> None:
        """Hand a check to the process."""
        self._check = check
        if self._instead is not None:
            self._instead.start(check)
            return
        try:
            self._connection.send(check)
        except OSError:
            self._do_it_here()

    def poll(self, *, wait: bool) -> CheckResult | None:
        """Return what the process found; with `wait` after some tenths of a second."""
        if self._instead is None:
            try:
                if not self._connection.poll(PATIENCE if wait else 0):
                    return None
                result: CheckResult = self._connection.recv()
            except (EOFError, OSError):
                self._do_it_here()
            else:
                return result
        assert self._instead is not None
        return self._instead.poll(wait=wait)

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.kill()
        self._process.wait()

    def _do_it_here(self) -> None:
        self._instead = InlineValidator()
        if self._check is not None:
            self._instead.start(self._check)


def serve(connection: Connection) -> None:
    """Do the checks that come for a plant, until nobody can send any more."""
    with suppress(EOFError, OSError):
        prepare(connection.recv())
        while True:
            check: Check = connection.recv()
            *_, result = validate(check)
            connection.send(result)


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
