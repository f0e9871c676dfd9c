"""The form of the log's lines: for people, or JSON for programs.

Whatever logs, the service, uvicorn or another library, comes out in the one form. A record's
`extra` becomes fields of its line.
"""

import logging
import logging.config
import sys
from typing import Any

import structlog
from structlog.stdlib import ExtraAdder, ProcessorFormatter, add_log_level, add_logger_name
from structlog.typing import EventDict, Processor

from models.text import printable
from service.settings import LogFormat

# The server's logger for WebSockets. What it says of each of them, such as its whole query string,
# is left out: refusals and messages are reported as all requests are.
STREAMS_LOGGER = "upright.streams"


def configuration(form: LogFormat) -> dict[str, Any]:
    """Return what `logging.config.dictConfig` takes: plain data, for worker processes too."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": "service.observability.logging.formatter", "form": form}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
        "root": {"handlers": ["stderr"], "level": "WARNING"},
        "loggers": {
            "uvicorn": {"level": "INFO"},
            "upright": {"level": "INFO"},
            STREAMS_LOGGER: {"level": "WARNING"},
        },
    }


def formatter(form: LogFormat) -> logging.Formatter:
    """Return what makes lines of records."""
    before: list[Processor] = [
        add_log_level,
        ExtraAdder(),
        _drop_coloured_message,
        _shorten_tracing_failure,
        structlog.processors.TimeStamper(fmt="iso"),
    ]

    after: list[Processor]
    if form == "json":
        before.append(add_logger_name)
        after = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        console = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(),
            pad_event_to=0,
            sort_keys=False,
            # structlog's usual tracebacks show the values of variables, and a state could be one.
            exception_formatter=structlog.dev.plain_traceback,
        )
        before.append(_escape_texts)
        after = [console]

    return ProcessorFormatter(
        foreign_pre_chain=before, processors=[ProcessorFormatter.remove_processors_meta, *after]
    )


def print_error(text: str, form: LogFormat = "people") -> None:
    """Say in one line why a command does not do what it was asked for."""
    _print_line(text, form, logging.CRITICAL)


def print_warning(text: str, form: LogFormat = "people") -> None:
    """Say in one line what somebody should know before the log begins."""
    _print_line(text, form, logging.WARNING)


def _print_line(text: str, form: LogFormat, level: int) -> None:
    if form == "json":
        logging.config.dictConfig(configuration(form))
        logging.getLogger("upright").log(level, printable(text))
    else:
        sys.stderr.write(f"upright: {printable(text)}\n")


def _drop_coloured_message(_: object, __: str, event: EventDict) -> EventDict:
    """Drop uvicorn's message for terminals, which repeats the event."""
    event.pop("color_message", None)
    return event


def _escape_texts(_: object, __: str, event: EventDict) -> EventDict:
    """Let no text from outside begin a line of its own, or reach the terminal as a command."""
    for name, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            event[name] = printable(value)
    return event


def _shorten_tracing_failure(_: object, __: str, event: EventDict) -> EventDict:
    """Name the exception of OpenTelemetry's exporter in place of its traceback.

    A collector that cannot be reached is nothing that a traceback would explain.
    """
    record = event.get("_record")
    if record is not None and record.name.startswith("opentelemetry"):
        error = record.exc_info[1] if record.exc_info else None
        record.exc_info = record.exc_text = None
        event.pop("exc_info", None)
        if error is not None:
            event["error"] = printable(f"{type(error).__name__}: {error}")
    return event
