"""The documents as data: their fenced blocks, headings and links, and which pages there are."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.project import ROOT

# Languages of fenced blocks. What may be typed is run, or says why it is not.
RUN = {"sh", "console", "python"}
NEVER_RUN = {"powershell"}
NOT_COMMANDS = {"json", "mermaid", "text", "toml", "yaml"}

FENCE = re.compile(
    r"(?:^<!-- (?P<mark>[^\n]*) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
LINK = re.compile(r"(?<!!)\[(?P<text>(?:[^\[\]]|!\[[^\]]*\]\([^)]*\))*)\]\((?P<target>[^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Example:
    """A command of a page, and what it prints there."""

    command: str
    printed: str


@dataclass(frozen=True)
class Block:
    """A fenced block of a page, with the comment in the line before it."""

    page: Path
    line: int
    language: str
    mark: str
    text: str

    @property
    def reason(self) -> str:
        """Return why the block is not run, or an empty text if it is."""
        return self.mark.removeprefix("not run: ") if self.mark.startswith("not run: ") else ""

    @property
    def address(self) -> str:
        """Return the address that answers once the block has started its program, if it stays."""
        return self.mark.removeprefix("stays: ") if self.mark.startswith("stays: ") else ""

    @property
    def place(self) -> str:
        """Return file and line, for messages."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    """Return every page that is held to the rules: all but decisions, which say how it was then."""
    readmes = [ROOT / folder / "README.md" for folder in ("client", "deploy", "examples")]
    docs = [page for page in (ROOT / "docs").rglob("*.md") if "decisions" not in page.parts]
    return [ROOT / "README.md", *sorted(docs), *readmes]


def blocks(page: Path) -> Iterator[Block]:
    """Give the fenced blocks of a page in their order."""
    text = page.read_text()
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        mark = match["mark"] or ""
        yield Block(page, line + bool(mark), match["language"], mark, match["text"])


def examples(block: Block) -> list[Example]:
    """Return the commands of a `console` block: lines after `$`, what follows is printed."""
    parsed: list[Example] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            parsed.append(Example(line[2:], ""))
        elif line.startswith("> "):
            last = parsed.pop()
            parsed.append(Example(f"{last.command}\n{line[2:]}", last.printed))
        else:
            last = parsed.pop()
            parsed.append(Example(last.command, f"{last.printed}{line}\n"))
    return parsed


def prose(text: str) -> str:
    """Return the text without fenced blocks and comments, of the same length."""
    for pattern in (FENCE, COMMENT):
        text = pattern.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)
    return text


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    made: set[str] = set()
    for heading in HEADING.findall(prose(page.read_text())):
        words = LINK.sub(lambda match: match["text"], heading).replace("`", "").strip().lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        number = 1
        anchor = slug
        while anchor in made:
            anchor, number = f"{slug}-{number}", number + 1
        made.add(anchor)
    return made
