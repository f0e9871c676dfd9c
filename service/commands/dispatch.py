"""Finds out which command was typed, and runs it."""

import gc
import os
import signal
from collections.abc import Sequence

from models.programs import silent_interrupts
from service.commands import command_line
from service.commands.command_line import (
    ExportOptions,
    HealthOptions,
    KeyOptions,
    ReplayOptions,
    UsageError,
)
from service.commands.environment import remove_service_links
from service.observability.logging import print_error, print_warning
from service.settings import LogFormat, Settings


def run(words: Sequence[str]) -> int:
    """Run the command that the words name; return its exit code, 2 where they are wrong."""
    form = _requested_format(words)
    for name in remove_service_links():
        print_warning(f"{name} is left out: an orchestrator set it for a service's name", form)
    try:
        command = command_line.parse(words)
    except UsageError as error:
        print_error(str(error), form)
        return 2

    # A command imports what it needs once it is known which one it is.
    if isinstance(command, Settings):
        with silent_interrupts():
            from service.commands import serve

        return serve.run(command)

    gc.enable()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})  # of a terminal that is closed
    match command:
        case KeyOptions():
            with silent_interrupts():
                from service.commands import key

            return key.run(command)
        case ReplayOptions():
            with silent_interrupts():
                from service.commands import replay

            return replay.run(command)
        case ExportOptions():
            with silent_interrupts():
                from service.commands import export

            return export.run(command)
        case HealthOptions():
            with silent_interrupts():
                from service.commands import health

            return health.run(command)


def _requested_format(words: Sequence[str]) -> LogFormat:
    """Return the form of errors, before the settings are known to be right."""
    text = " ".join(words).replace("=", " ")
    variable = next(
        (os.environ[name] for name in os.environ if name.upper() == "UPRIGHT_LOG_FORMAT"), ""
    )
    if "--log-format" in text:
        return "json" if "--log-format json" in text else "people"
    return "json" if variable == "json" else "people"
