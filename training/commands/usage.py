"""What is wrong with the words that were typed, in one line that names the nearest flag.

tyro tells that to the hook of a module which it may change in any release: pyproject.toml names the
one release that this was written for, and docs/decisions/0065 says why.
"""

import io
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stdout, suppress
from difflib import get_close_matches
from typing import Any

import tyro
from tyro import _errors as errors
from tyro.constructors import ConstructorRegistry

_PLAIN_REASONS = (  # patterns of what tyro says of a value, and what is said here
    (r"invalid literal for int\(\) with base 10: (.*)", r"must be a whole number, not \1"),
    (r"could not convert string to float: (.*)", r"must be a number, not \1"),
    (r"Could not find valid parse for arguments: (.*)", r"cannot be read from \1"),
)

Read = Callable[[Sequence[str]], Any]


class UsageError(Exception):
    """Raised when what was typed cannot be done; its text names the flags as they are typed."""


class _RefusalError(Exception):
    """Raised by the hook, to leave tyro before it prints its own account."""

    def __init__(self, event: errors.ParseErrorEvent) -> None:
        super().__init__()
        self.event = event


def read_words(
    form: Any, words: Sequence[str], *, prog: str, description: str, registry: ConstructorRegistry
) -> Any:
    """Return what the words say by a form, which has alternatives: the first word names one.

    Raises `UsageError`. Exits by itself where help was asked for.
    """

    def read(words: Sequence[str]) -> Any:
        with errors.on_parse_error(_refuse):
            return tyro.cli(form, prog=prog, description=description, args=words, registry=registry)

    try:
        return read(words)
    except _RefusalError as refusal:
        event = refusal.event

    name = words[0] if words and not words[0].startswith("-") else None
    names = _alternatives(read)
    if name is not None and name not in names:
        raise UsageError(
            f"there is no {name!r}{nearest(name, names)} ({prog} has {', '.join(names)})"
        )
    text = _explain(event, words, _flags(read, words[:1]))
    raise UsageError(f"{text} (see {prog if name is None else f'{prog} {name}'} --help)")


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return a question after the choice that is most like a word, empty if none is."""
    bare = {choice.lstrip("-"): choice for choice in choices}
    matches = get_close_matches(word.lstrip("-"), bare, n=1)
    return f"; did you mean {bare[matches[0]]}?" if matches else ""


def _refuse(event: errors.ParseErrorEvent) -> None:
    raise _RefusalError(event)


def _alternatives(read: Read) -> list[str]:
    """Return the words of which the first must be one."""
    try:
        read([])
    except _RefusalError as refusal:
        if isinstance(refusal.event, errors.MissingSubcommand):
            return list(refusal.event.subcommand_spec.parser_from_name)
    return []


def _flags(read: Read, command: Sequence[str]) -> list[str]:
    """Return the flags of a command, which its help shows."""
    help_text = io.StringIO()
    with redirect_stdout(help_text), suppress(SystemExit, _RefusalError):
        read([*command, "--help"])
    return re.findall(r"^\W*(--[a-z][\w.-]*)", help_text.getvalue(), re.MULTILINE)


def _explain(event: errors.ParseErrorEvent, words: Sequence[str], flags: Sequence[str]) -> str:
    match event:
        case errors.MissingSubcommand():
            return f"missing: one of {', '.join(event.subcommand_spec.parser_from_name)}"
        case errors.MissingArgs():
            if event.unrecognized_tokens:
                return _explain_unknown(event.unrecognized_tokens, words, flags)
            return "missing: " + ", ".join(_name(each.arg) for each in event.missing_arguments)
        case errors.UnrecognizedArgs():
            return _explain_unknown(event.tokens, words, flags)
        case errors.BadValue():
            return f"{_flag(event.argument)} needs a value: {_name(event.argument)}"
        case errors.InvalidChoice():
            choices = ", ".join(event.choices)
            return f"{_flag(event.argument)}: must be one of {choices}, not {event.value!r}"
        case errors.MutexConflict():
            return f"{event.first_token} and {event.second_token} do not go together"
        case errors.InstantiationFailure():
            reason = _plain_reason(event.message)
            return reason if event.argument is None else f"{_flag(event.argument)}: {reason}"
    return "what was typed cannot be read"


def _explain_unknown(tokens: Sequence[str], words: Sequence[str], flags: Sequence[str]) -> str:
    flag = next((token for token in tokens if token.startswith("-")), None)
    if flag is not None:
        name = flag.partition("=")[0]
        return f"{name} is no flag{nearest(name, flags)}"

    before = words[words.index(tokens[0]) - 1]
    if before in flags:
        return f"{before} takes no value: it is on where it is given, not {tokens[0]!r}"
    return f"{tokens[0]!r} is a word too many"


def _plain_reason(message: str) -> str:
    for pattern, text in _PLAIN_REASONS:
        message = re.sub(pattern, text, message)
    return " ".join(message.split())


def _flag(argument: Any) -> str:
    names: tuple[str, ...] = argument.lowered.name_or_flags
    return names[-1]


def _name(argument: Any) -> str:
    """Return how an argument is typed, such as `--out FOLDER`."""
    metavar = argument.lowered.metavar or ""
    return metavar if argument.is_positional() else f"{_flag(argument)} {metavar}".rstrip()
