"""Links each word of the glossary where a page first uses it; `make links` writes the links.

A test holds the pages to it.
"""

import os
import re
from pathlib import Path

from tests.support.pages import LINK, pages, prose
from tests.support.project import ROOT

FILE = ROOT / "docs" / "glossary.md"

# How a word of the glossary may be written, where that is more than the word and an s after it.
FORMS = {
    "Admission": r"admission|admitted|admits",
    "Bundle": r"bundles?",
    "Drain": r"drain(?:s|ed|ing)?",
    "Fallback": r"fallbacks?",
    "Golden states": r"golden states?",
    "Greedy action": r"greedy actions?",
    "Policy": r"policy|policies",
    "Promote": r"promot(?:e|es|ed|ing|ion)",
    "Q-values": r"Q-values?",
    "Recovery": r"recovery",
    "Replay": r"replay(?:s|ed)?(?! buffer)",
    "Rollback": r"rollback|rolls? back|rolled back|rolling back",
    "Success rate": r"success rates?",
}
# What is no running text, so that a word in it is no first use: code, headings, other links.
SKIPPED = re.compile(
    r"`[^`\n]+`|^#{1,6} .*$|!\[[^\]]*\]\([^)]*\)|<[^>\n]+>|https?://[^\s)]+|\*\*Fires\*\*",
    re.MULTILINE,
)


def terms() -> dict[str, str]:
    """Return a pattern for each entry of the glossary, by its anchor; the longest entries first."""
    entries = sorted(re.findall(r"^### (.+)$", FILE.read_text(), re.MULTILINE), key=len)
    return {
        entry.lower().replace(" ", "-"): FORMS.get(entry, f"{re.escape(entry)}s?")
        for entry in reversed(entries)
    }


def linked(page: Path, text: str) -> str:
    """Return a page's text with a link at the first use of each word of the glossary."""
    glossary = os.path.relpath(FILE, page.parent)
    shown = _running_text(text, glossary)
    longer: list[str] = []
    for anchor, pattern in terms().items():
        target = f"{glossary}#{anchor}"
        first = _first_use(shown, pattern, target, longer)
        if first is not None and not text[first.end() :].startswith(f"]({target})"):
            text = re.sub(rf"\[([^\[\]]*)\]\({re.escape(target)}\)", r"\1", text)
            first = _first_use(_running_text(text, glossary), pattern, target, longer)
            assert first is not None
            text = f"{text[: first.start()]}[{first[0]}]({target}){text[first.end() :]}"
            shown = _running_text(text, glossary)
        longer.append(pattern)
    return text


def _running_text(text: str, glossary: str) -> str:
    """Return the text, as long as it was, with blanks for all but prose and links to it."""
    shown = LINK.sub(
        lambda link: link[0] if link["target"].startswith(f"{glossary}#") else _blank(link),
        prose(text),
    )
    return SKIPPED.sub(_blank, shown)


def _first_use(shown: str, pattern: str, target: str, longer: list[str]) -> "re.Match[str] | None":
    """Find a word in running text; not within other links, nor within a longer word."""
    if _written(pattern).search(shown) is None:
        return None
    shown = LINK.sub(lambda link: link[0] if link["target"] == target else _blank(link), shown)
    shown = re.sub(r"\]\([^)]*\)", _blank, shown)
    for word in longer:
        if re.search(pattern, word, re.IGNORECASE):
            shown = _written(word).sub(_blank, shown)
    return _written(pattern).search(shown)


def _written(pattern: str) -> "re.Pattern[str]":
    return re.compile(rf"(?<![\w-])(?:{pattern})(?![\w-])", re.IGNORECASE)


def _blank(match: "re.Match[str]") -> str:
    return re.sub(r"[^\n]", " ", match[0])


if __name__ == "__main__":
    for page in pages():
        if page != FILE:
            page.write_text(linked(page, page.read_text()))
