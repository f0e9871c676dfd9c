"""Logs: records of the standard library's `logging` in; lines for people, or JSON for programs, out. Knows nothing of what is logged.

Whatever logs, the service, uvicorn or another library, comes out in the one form. A record's `extra` becomes fields of its line.
"""

import logging
import logging.config
import sys
from typing import Any

import structlog
from structlog.stdlib import ExtraAdder, ProcessorFormatter, add_log_level, add_logger_name
from structlog.typing import EventDict, Processor

from service.settings import LogFormat


def configuration(form: LogFormat) -> dict[str, Any]:
    """Return what `logging.config.dictConfig` takes: plain data, which worker processes can be given too."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": "service.observability.logging.formatter", "form": form}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
        "root": {"handlers": ["stderr"], "level": "WARNING"},
        "loggers": {name: {"level": "INFO"} for name in ("uvicorn", "upright")},
    }


def formatter(form: LogFormat) -> logging.Formatter:
    """Return what makes lines of records."""
    first: list[Processor] = [
        add_log_level,
        ExtraAdder(),
        _drop_coloured,
        structlog.processors.TimeStamper(fmt="iso"),
    ]
    last: list[Processor]
    if form == "json":
        first.append(add_logger_name)
        last = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        # Its usual tracebacks show the values of variables, and among them could be a state.
        plain = structlog.dev.plain_traceback
        last = [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(),
                pad_event_to=0,
                sort_keys=False,
                exception_formatter=plain,
            )
        ]
    return ProcessorFormatter(
        foreign_pre_chain=first, processors=[ProcessorFormatter.remove_processors_meta, *last]
    )


def complain(text: str, form: LogFormat = "people") -> None:
    """Say in one line why the service does not start."""
    if form == "json":
        logging.config.dictConfig(configuration(form))
        logging.getLogger("upright").critical(text)
    else:
        sys.stderr.write(f"upright: {text}\n")


def _drop_coloured(_: object, __: str, event: EventDict) -> EventDict:
    event.pop("color_message", None)  # uvicorn's message a second time, for terminals
    return event
