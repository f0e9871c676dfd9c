"""Writes the tables of settings in docs/configuration.md, as `make settings` does.

A test holds the page to the settings.
"""

import re
from typing import Literal, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_settings import CLI_SUPPRESS

from service.settings import Settings, flag, grouped, variable
from tests.support.links import linked
from tests.support.project import ROOT

FILE = ROOT / "docs" / "configuration.md"
BEGIN, END = "<!-- settings: made by `make settings` -->\n", "<!-- end of settings -->\n"
HEADER = "| flag | environment | default | meaning |\n| --- | --- | --- | --- |\n"


def tables() -> str:
    """Return a table for each group: its settings, their names, defaults and meanings."""
    groups: dict[str, list[str]] = {}
    for title, name, field in grouped(Settings.model_fields):
        flag_cell = "none" if CLI_SUPPRESS in field.metadata else f"`{flag(name)}`"
        row = f"| {flag_cell} | `{variable(name)}` | {_default(field)} | {_meaning(field)} |\n"
        groups.setdefault(title, []).append(row)
    return "\n".join(f"**{title}**\n\n{HEADER}{''.join(rows)}" for title, rows in groups.items())


def page() -> str:
    """Return the document with the tables as they must be."""
    before, _, rest = FILE.read_text().partition(BEGIN)
    return linked(FILE, before + BEGIN + tables() + END + rest.partition(END)[2])


def _default(field: FieldInfo) -> str:
    match field.default:
        case None | []:
            return "none"
        case bool():
            return "off"
        case list() as values:
            return f"`{','.join(values)}`"
        case value:
            return f"`{value}`"


def _meaning(field: FieldInfo) -> str:
    """Return the description; of a choice, what there is to choose from as well."""
    choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    text = re.sub(r"(?<![\w`])(/[a-z0-9/]+)", r"`\1`", field.description or "")
    if not choices:
        return text
    return f"{' or '.join(f'`{choice}`' for choice in choices)}: {text}"


if __name__ == "__main__":
    FILE.write_text(page())
