"""What can be typed after `python -m service`: pydantic-settings makes it of the classes below.

Plain `python -m service` means `python -m service serve`. Whatever is wrong with what was typed, or
with the environment, is a `UsageError` of one line, which names flags and variables as they are
written. Nothing here may import what a command needs to run: `--help` must not wait for it.
"""

import inspect
import os
from argparse import SUPPRESS, ArgumentParser, Namespace
from collections.abc import Collection, Iterator, Sequence
from functools import cache, partial
from typing import Annotated, Any, NoReturn, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import (
    CLI_SUPPRESS,
    BaseSettings,
    CliPositionalArg,
    CliSettingsSource,
    CliSubCommand,
    SettingsConfigDict,
)

from service.commands.environment import misspelt_variable, nearest
from service.endpoints import Scope
from service.settings import (
    ConfigFileError,
    File,
    Folder,
    Metavar,
    Settings,
    flag,
    grouped,
    variable,
)

PROGRAM = "python -m service"
SERVE = "serve"
VALUE_LIMIT = 80  # characters of a wrong value that are shown


class UsageError(Exception):
    """Raised when what was typed or set cannot be done."""


class _Options(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class KeyOptions(_Options):
    """Make a key: print it once, and add its hash to a file of keys."""

    name: CliPositionalArg[str] = Field(
        description="whose key it is: letters, digits, dots, dashes"
    )
    scope: Annotated[list[Scope], Metavar("act|admin|metrics")] = Field(
        description="what it allows; may be given more than once"
    )
    keys: File = Field(description="file that its hash is added to")


class ReplayOptions(_Options):
    """Answer every state of a decision record again, and report what differs.

    Exit code: 0 all identical, 1 some differ, 2 cannot be read, 3 none differs but some rows have
    no bundle.
    """

    file: CliPositionalArg[File] = Field(
        description="the record as --record names it, or one of its older files"
    )
    bundle: list[Folder] = Field(
        [],
        description="a bundle that answered; may be given more than once; without it, the one that"
        " the service would serve",
    )


class ExportOptions(_Options):
    """Write a decision record as one file for other programs."""

    file: CliPositionalArg[File] = Field(
        description="the record as --record names it, or one of its older files"
    )
    to: File = Field(description="what to write, by its suffix: .parquet, .csv, .jsonl")


class HealthOptions(_Options):
    """Say whether the service that runs here takes requests.

    It is found by what it tells of itself, whatever its flags are. Exit code: 0 ready, 1 not ready,
    2 nothing runs.
    """

    timeout: Annotated[float, Field(gt=0, le=3_600), Metavar("SECONDS")] = Field(
        2.0, description="seconds in which it must answer"
    )


Command = Settings | KeyOptions | ReplayOptions | ExportOptions | HealthOptions


class Program(BaseSettings):
    """The commands, of which one is typed. Only its words are read from here, by `parse`."""

    model_config = SettingsConfigDict(cli_kebab_case=True, defer_build=True)

    serve: CliSubCommand[Settings]
    key: CliSubCommand[KeyOptions]
    replay: CliSubCommand[ReplayOptions]
    export: CliSubCommand[ExportOptions]
    health: CliSubCommand[HealthOptions]


COMMANDS = tuple(Program.model_fields)


def parse(arguments: Sequence[str]) -> Command:
    """Return the command that was typed. Raises `UsageError`, and exits where help is asked for."""
    words = list(arguments)
    if not words or words[0].startswith("-"):
        words.insert(0, SERVE)
    name = words[0]
    if name not in COMMANDS:
        close = nearest(name, COMMANDS)
        raise UsageError(f"{name!r} is no command{close} (see {PROGRAM} --help)")
    if name == SERVE:
        _check_variables()

    root = Parser(prog=PROGRAM, allow_abbrev=False, add_help=False)
    source = CliSettingsSource[Parser](
        Program,
        root_parser=root,
        parse_args_method=Parser.parse_args,
        add_argument_method=_add_argument,
        add_parser_method=partial(_add_command, root),
    )
    source = source(args=words)
    try:
        command: Command = _options_class(name)(**source()[name])
    except ConfigFileError as error:
        raise UsageError(str(error)) from error
    except ValidationError as error:
        typed = {dest.rpartition(".")[2] for dest in source.env_vars}
        config_file = (
            f"--config {source()[name].get('config') or os.environ.get(variable('config'))}"
        )
        details = error.errors(include_url=False)
        problems = [_problem(name, detail, typed, config_file) for detail in details]
        raise UsageError("; ".join(problems)) from error
    return command


def parse_settings(arguments: Sequence[str]) -> Settings:
    """Return the settings of a program that does nothing but serve. Raises `UsageError`."""
    settings = parse([SERVE, *arguments])
    assert isinstance(settings, Settings)  # noqa: S101 - the command was `serve`
    return settings


class Parser(ArgumentParser):
    """An argparse parser whose errors are one line with the nearest flag."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._titles: dict[str, Any] = {}
        self.parsers: dict[str, Parser] = {}  # of the commands, by their names

    def group(self, title: str) -> Any:
        """Return the group of flags with a title, which is begun where it is not there."""
        if title not in self._titles:
            self._titles[title] = self.add_argument_group(title)
        return self._titles[title]

    def parse_args(  # type: ignore[override] # argparse has overloads for namespaces of one's own
        self, args: Sequence[str] | None = None, namespace: Namespace | None = None
    ) -> Namespace:
        """Parse the words after the program's name. Raises `UsageError`."""
        words = list(args or ())
        parsed, unknown = self.parse_known_args(words, namespace)
        if unknown:
            word = next((each for each in unknown if each.startswith("-")), unknown[0])
            raise UsageError(_unknown_word(word, words, self.parsers[words[0]]))
        return parsed

    def flags(self) -> Iterator[str]:
        """Give every flag that this parser knows."""
        for action in self._actions:
            yield from (name for name in action.option_strings if name.startswith("--"))

    def error(self, message: str) -> NoReturn:
        """Raise `UsageError` where argparse would print the usage."""
        message = message.removeprefix("argument ")
        name, _, fault = message.partition(": ")
        if fault.startswith("expected"):
            action = next(each for each in self._actions if name in "/".join(each.option_strings))
            message = f"{name} needs a value: {name} {action.metavar}"
        elif fault.startswith("ignored explicit argument"):
            message = f"{name.partition('/')[0]} takes no value: it is on where it is given"
        else:
            message = message.replace("the following arguments are required", "missing")
        raise UsageError(f"{message} (see {self.prog} --help)")


def _unknown_word(word: str, words: Sequence[str], parser: Parser) -> str:
    """Say what may have been meant by a word that no flag takes."""
    name = word.partition("=")[0]
    field = Settings.model_fields.get(name.lstrip("-").replace("-", "_"))
    if words[0] == SERVE and field is not None and CLI_SUPPRESS in field.metadata:
        variable_name = variable(name.lstrip("-").replace("-", "_"))
        return f"{name} would show the password to every user of the machine; set {variable_name}"
    if name.startswith("-"):
        return f"{name} is no flag{nearest(name, parser.flags())}"

    before = words[words.index(word) - 1]
    if before in parser.flags():
        return f"{before} takes no value: it is on where it is given, not {_shown(word)}"
    return f"{_shown(word)} is no flag; flags begin with --"


def _add_command(root: "Parser", subparsers: Any, name: str, **options: Any) -> "Parser":
    """Add a command's parser; the help of `serve` shows the other commands too."""
    if name == SERVE:
        options["usage"] = f"{PROGRAM} [COMMAND] [OPTIONS]"
        options["description"] = _description()
    else:
        options["description"] = inspect.getdoc(_options_class(name))
    parser: Parser = subparsers.add_parser(name, **options)
    root.parsers[name] = parser
    return parser


def _description() -> str:
    summaries = [
        f"  {name:8} {(_options_class(name).__doc__ or '').partition('.')[0]}{note}"
        for name, note in zip(COMMANDS, (", the default", *[""] * 4), strict=True)
    ]
    commands = "\n".join(summaries)
    return (
        f"Serve a policy, or do another command:\n{commands}\n"
        f"`{PROGRAM} COMMAND --help` shows another command's options.\n\n"
        "Each option of serve is an environment variable too, in brackets; the option wins. What a"
        " variable or a file switches on, the option with --no- switches off."
    )


def _options_class(command: str) -> type[Command]:
    options: type[Command] = get_args(Program.model_fields[command].annotation)[0]
    return options


def _add_argument(parser: "Parser", *names: str, **options: Any) -> None:
    """Add a field to a command's parser, in its group and with its own word for the value."""
    if options.get("help") == SUPPRESS:  # it is no flag
        return
    command, _, name = options.get("dest", names[0]).partition(".")
    field = _options_class(command).model_fields[name]
    if "metavar" in options and (metavar := _metavar(field)):
        options["metavar"] = metavar
    options["help"] = _help(command, name, field)

    group: Any = parser
    if command == SERVE:
        group = parser.group(_titles()[name])
    group.add_argument(*names, **options)


@cache
def _titles() -> dict[str, str]:
    """Return the title of each setting's group."""
    return {name: title for title, name, _ in grouped(Settings.model_fields)}


def _metavar(field: FieldInfo) -> str | None:
    """Return what is shown in the place of a field's value, where its type says so."""
    of_members = (each for member in get_args(field.annotation) for each in get_args(member))
    markers = [*field.metadata, *of_members]
    names = [each.name for each in markers if isinstance(each, Metavar)]
    return names[-1] if names else None


def _help(command: str, name: str, field: FieldInfo) -> str:
    text = field.description or ""
    has_default = not (field.is_required() or field.default is None or field.default is False)
    if has_default and field.default != []:
        default = ",".join(field.default) if isinstance(field.default, list) else field.default
        text += f" (default: {default})"
    if command == SERVE:
        text += f" [{variable(name)}]"
    elif field.is_required():
        text += " (required)"
    return text.replace("%", "%%")


def _check_variables() -> None:
    problem = misspelt_variable()
    if problem is not None:
        raise UsageError(problem)


def _problem(command: str, detail: ErrorDetails, typed: Collection[str], config_file: str) -> str:
    """Say what is wrong with an option, by the name under which it was given.

    `typed` are those that stand on the command line; `config_file` names the file of others.
    """
    path = [str(part) for part in detail["loc"]]
    message = detail["msg"].removeprefix("Value error, ").replace("Input should", "should", 1)
    if not path:  # several options that do not fit together, which the message names
        return message

    name = path[0]
    if detail["type"] == "missing":
        return f"missing: {flag(name)} (see {PROGRAM} {command} --help)"
    if detail["type"] == "extra_forbidden":  # only a file can name what no flag does
        return f"{config_file}: {_shown(name)} is no setting{nearest(name, Settings.model_fields)}"

    label = flag(name)
    if command == SERVE and name not in typed:
        in_environment = variable(name) in map(str.upper, os.environ)
        label = (
            f"{variable(name)} ({label})" if in_environment else f"{config_file}: {flag(name)[2:]}"
        )
    secret = command == SERVE and CLI_SUPPRESS in Settings.model_fields[name].metadata
    return f"{label}: {message}" + ("" if secret else f", not {_shown(detail['input'])}")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= VALUE_LIMIT else f"{text[:VALUE_LIMIT]}…"
