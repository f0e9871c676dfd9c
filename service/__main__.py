"""`python -m service`: reads what was typed and runs that command."""

import gc
import os
import sys
from collections.abc import Sequence

from service.commands import command_line
from service.commands.command_line import ExportOptions, KeyOptions, ReplayOptions, UsageError
from service.commands.environment import remove_service_links
from service.observability.logging import print_error, print_warning
from service.settings import LogFormat, Settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; 2 where what was typed or set is wrong."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    form = _requested_format(words)
    for name in remove_service_links():
        print_warning(f"{name} is left out: an orchestrator set it for a service's name", form)
    try:
        command = command_line.parse(words)
    except UsageError as error:
        print_error(str(error), form)
        return 2

    # A command imports what it needs once it is known which one it is.
    match command:
        case KeyOptions():
            from service.commands import key

            return key.run(command)
        case ReplayOptions():
            from service.commands import replay

            return replay.run(command)
        case ExportOptions():
            from service.commands import export

            return export.run(command)
        case Settings():
            # The imports make many objects and no garbage: looking for some takes 3 % of the start.
            gc.disable()
            from service.commands import serve

            return serve.run(command)


def _requested_format(words: Sequence[str]) -> LogFormat:
    """Return the form of errors, before the settings are known to be right."""
    text = " ".join(words).replace("=", " ")
    variable = next(
        (os.environ[name] for name in os.environ if name.upper() == "UPRIGHT_LOG_FORMAT"), ""
    )
    if "--log-format" in text:
        return "json" if "--log-format json" in text else "people"
    return "json" if variable == "json" else "people"


if __name__ == "__main__":
    sys.exit(main())
