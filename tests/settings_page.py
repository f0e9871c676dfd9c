"""The settings page: the settings in, their tables in docs/operations.md out. `make settings` runs it; a test holds the two together."""

import re
from collections import defaultdict
from typing import Literal, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_settings import CLI_SUPPRESS

from service.settings import Settings
from tests.support.project import ROOT

FILE = ROOT / "docs" / "operations.md"
# Where a group begins; the settings that follow in the code belong to it too.
GROUPS = {
    "host": "Listening",
    "bundle": "Bundle",
    "max_body": "Limits",
    "uds": "Listening",
    "keep_alive": "Limits",
    "drain": "Running",
    "record": "Recording",
    "workers": "Running",
    "keys": "Keys, TLS and browsers",
    "log_format": "Observing",
}
BEGIN, END = "<!-- settings: made by `make settings` -->\n", "<!-- end of settings -->\n"


def tables() -> str:
    """Return every setting with its names, its default and its meaning, in a table for each group."""
    groups: dict[str, list[str]] = defaultdict(list)
    group = ""
    for name, field in Settings.model_fields.items():
        group = GROUPS.get(name, group)
        flag = "none" if CLI_SUPPRESS in field.metadata else f"`--{name.replace('_', '-')}`"
        variable = f"{Settings.model_config['env_prefix']}{name.upper()}"
        groups[group].append(f"| {flag} | `{variable}` | {_default(field)} | {_meaning(field)} |\n")
    head = "| flag | environment | default | meaning |\n| --- | --- | --- | --- |\n"
    return "\n".join(f"**{title}**\n\n{head}{''.join(rows)}" for title, rows in groups.items())


def page() -> str:
    """Return the document with the tables as they must be."""
    before, _, rest = FILE.read_text().partition(BEGIN)
    return before + BEGIN + tables() + END + rest.partition(END)[2]


def _default(field: FieldInfo) -> str:
    match field.default:
        case None:
            return "none"
        case bool(value):
            return f"`{str(value).lower()}`"
        case value:
            return f"`{value}`"


def _meaning(field: FieldInfo) -> str:
    """Return the description; of a choice, what there is to choose from as well."""
    choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    named = re.sub(r"(?<![\w`])(/[a-z/]+)", r"`\1`", field.description or "")
    return f"{' or '.join(f'`{choice}`' for choice in choices)}: {named}" if choices else named


if __name__ == "__main__":
    FILE.write_text(page())
