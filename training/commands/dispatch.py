"""Finds out which command was typed, and runs it; every error becomes one clear line."""

import importlib.util
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape

from models.bundle import BundleError
from models.programs import INTERRUPTED, discard_output, explain_missing_library, silent_interrupts
from models.text import printable
from training.commands.command_line import (
    PROGRAM,
    Command,
    EvaluateCommand,
    ExportCommand,
    ImportCommand,
    SweepCommand,
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
    with silent_interrupts():
        command = _read(words, errors)
        # Importing the commands imports torch, which takes seconds.
        from training.commands import run

    try:
        match command:
            case TrainCommand():
                return run.train(command, words)
            case EvaluateCommand():
                return run.evaluate(command)
            case ExportCommand():
                return run.export(command)
            case ImportCommand():
                return run.import_policy(command)
            case SweepCommand():
                return _sweep(command)
    except (run.CommandError, BundleError) as error:
        errors.print(f"{PROGRAM}: {escape(printable(str(error)))}")
        return 1
    except KeyboardInterrupt:
        errors.print(f"{PROGRAM}: interrupted")
        return INTERRUPTED


def _read(words: Sequence[str], errors: Console) -> Command:
    """Return the command that was typed. Exits by itself where there is none, or help is asked."""
    try:
        return parse(words)
    except UsageError as error:
        errors.print(f"{PROGRAM}: {escape(printable(str(error)))}")
        sys.exit(2)
    except OSError as error:  # of a help that nobody gets
        discard_output()
        errors.print(f"{PROGRAM}: standard output cannot be written ({error.strerror})")
        sys.exit(LOST)


def _sweep(command: SweepCommand) -> int:
    """Run a sweep, which alone needs Ray."""
    from training.commands.run import CommandError

    try:
        if importlib.util.find_spec("ray") is None:
            raise ModuleNotFoundError(name="ray")
        with silent_interrupts():
            from training.commands import sweep
    except ModuleNotFoundError as error:
        remedy = ".venv/bin/pip install --constraint constraints.txt '.[train,ray]'"
        raise CommandError(f"sweep: {explain_missing_library(error, remedy)}") from error
    return sweep.sweep(command)
