"""Finds out which command was typed, and runs it; every error becomes one clear line."""

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape

from models.bundle import BundleError
from models.programs import INTERRUPTED, discard_output, silent_interrupts
from models.text import printable
from training.commands.command_line import (
    PROGRAM,
    EvaluateCommand,
    ExportCommand,
    TrainCommand,
    parse,
)
from training.commands.standard_output import LOST
from training.commands.usage import UsageError


def dispatch(words: Sequence[str]) -> int:
    """Run one command and return its exit code: 0 done, 1 failed, 130 interrupted.

    It is 3 where all was done but standard output took no text. Exits by itself with 2 where what
    was typed is no command.
    """
    errors = Console(stderr=True, soft_wrap=True, highlight=False)
    try:
        command = parse(words)
    except UsageError as error:
        errors.print(f"{PROGRAM}: {escape(printable(str(error)))}")
        sys.exit(2)
    except OSError as error:  # of a help that nobody gets
        discard_output()
        errors.print(f"{PROGRAM}: standard output cannot be written ({error.strerror})")
        sys.exit(LOST)

    # Importing the commands imports torch, which takes seconds.
    with silent_interrupts():
        from training.commands import run

    try:
        match command:
            case TrainCommand():
                return run.train(command, words)
            case EvaluateCommand():
                return run.evaluate(command)
            case ExportCommand():
                return run.export(command)
    except (run.CommandError, BundleError) as error:
        errors.print(f"{PROGRAM}: {escape(printable(str(error)))}")
        return 1
    except KeyboardInterrupt:
        errors.print(f"{PROGRAM}: interrupted")
        return INTERRUPTED
