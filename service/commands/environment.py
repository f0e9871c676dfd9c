"""The environment as the command line reads it: variables that are misspelt, or not ours."""

import os
import re
from collections.abc import Iterable

from service.settings import ENVIRONMENT_PREFIX, Settings, variable

# What Kubernetes and Docker set in every container for a service named `upright` or `upright-…`.
_LINK_NAME = re.compile(
    r".+_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_LINK_VALUE = re.compile(r"(tcp|udp|sctp)://\S+:\d+")


def remove_service_links() -> list[str]:
    """Remove the variables that an orchestrator made from services' names; return those of ours.

    They are no settings, whatever they are called: for a service named `upright` there is an
    `UPRIGHT_PORT` that holds `tcp://10.96.0.12:8000`.
    """
    links = [name for name, value in _ours().items() if _is_service_link(name.upper(), value)]
    settings = [name for name in links if name.upper() in _variables()]
    for name in links:
        del os.environ[name]
    return settings


def misspelt_variable() -> str | None:
    """Return what is wrong with a variable that looks like a setting, or None if all are right."""
    for name in _ours():
        if name.upper() not in _variables():
            return f"{name} is no setting{nearest(name.upper(), _variables())}"
    for name in os.environ:
        prefix, _, rest = name.upper().partition("_")
        known = f"{ENVIRONMENT_PREFIX}{rest}"
        if known in _variables() and _looks_like(f"{prefix}_", ENVIRONMENT_PREFIX):
            return f"{name} is no setting; did you mean {known}?"
    return None


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return a question after the choice that is most like a word, empty if none is."""
    from difflib import get_close_matches  # only those who mistype wait for it

    # Without their dashes, by which all flags are alike.
    bare = {choice.lstrip("-"): choice for choice in choices}
    matches = get_close_matches(word.lstrip("-"), list(bare), n=1)
    return f"; did you mean {bare[matches[0]]}?" if matches else ""


def _looks_like(word: str, right: str) -> bool:
    """Return whether a word is another one with a letter too few, too many, wrong or misplaced."""
    if word == right or word[0] != right[0] or abs(len(word) - len(right)) > 1:
        return False
    from difflib import SequenceMatcher  # only those who mistype wait for it

    return SequenceMatcher(None, word, right).ratio() > 0.8


def _ours() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if name.upper().startswith(ENVIRONMENT_PREFIX)
    }


def _variables() -> list[str]:
    return [variable(name) for name in Settings.model_fields]


def _is_service_link(name: str, value: str) -> bool:
    if name.endswith("_PORT") and _LINK_VALUE.fullmatch(value):
        return True
    return name not in _variables() and _LINK_NAME.fullmatch(name) is not None
