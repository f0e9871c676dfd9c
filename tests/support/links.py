"""Links words of the glossary, and sources elsewhere, where a page first names them.

`make links` writes the links, and a test holds the pages to them.
"""

import os
import re
from functools import lru_cache
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
# What others have written, by the pattern of its name.
SOURCES = {
    "Gymnasium": "https://gymnasium.farama.org",
    "ONNX Runtime|onnxruntime": "https://onnxruntime.ai",
    "FastAPI": "https://fastapi.tiangolo.com",
    "uvicorn": "https://uvicorn.dev",
    "Triton": "https://github.com/triton-inference-server/server",
    "tritonclient": "https://github.com/triton-inference-server/client",
    "KServe": "https://kserve.github.io/website/",
    "MLServer": "https://mlserver.readthedocs.io",
    "Stable-Baselines3": "https://stable-baselines3.readthedocs.io",
    "CleanRL": "https://docs.cleanrl.dev",
    "Prometheus": "https://prometheus.io/docs/",
    "Grafana": "https://grafana.com/docs/grafana/latest/",
    "OpenTelemetry": "https://opentelemetry.io/docs/",
    "TensorBoard": "https://www.tensorflow.org/tensorboard",
    "Docker": "https://docs.docker.com",
    "buildah": "https://buildah.io",
    "Kubernetes": "https://kubernetes.io/docs/",
    "nginx": "https://nginx.org/en/docs/",
    "systemd": "https://systemd.io",
    "SQLite": "https://sqlite.org",
    "Parquet": "https://parquet.apache.org",
    "schemathesis": "https://schemathesis.readthedocs.io",
    "Loki": "https://grafana.com/oss/loki/",
    **{
        f"RFC {number}": f"https://www.rfc-editor.org/rfc/rfc{number}"
        for number in (
            6455,
            6750,
            8305,
            9112,
            9457,
        )
    },
}
# What is no running text, so that a word in it is no first use: code, headings, other links.
SKIPPED = re.compile(
    r"`[^`\n]+`|^#{1,6} .*$|!\[[^\]]*\]\([^)]*\)|<[^>\n]+>|(?<!\]\()https?://[^\s)]+|\*\*Fires\*\*",
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
    """Return a page's text with a link at the first use of each word, and of each source's name."""
    glossary = os.path.relpath(FILE, page.parent)
    words = [(f"{glossary}#{anchor}", pattern) for anchor, pattern in terms().items()]
    words += [(address, pattern) for pattern, address in SOURCES.items()]
    longer: list[str] = []
    for target, pattern in words:
        first = _first_use(text, pattern, target, longer)
        if first is not None and not text[first.end() :].startswith(f"]({target}"):
            text = re.sub(rf"\[([^\[\]]*)\]\({re.escape(target)}\)", r"\1", text)
            first = _first_use(text, pattern, target, longer)
            assert first is not None
            text = f"{text[: first.start()]}[{first[0]}]({target}){text[first.end() :]}"
        longer.append(pattern)
    return text


def _first_use(text: str, pattern: str, target: str, longer: list[str]) -> "re.Match[str] | None":
    """Find a word in running text; not within other links, nor within a longer word."""
    if _written(pattern).search(text) is None:
        return None
    shown = _running_text(text)
    shown = LINK.sub(lambda link: link[0] if link["target"] == target else _blank(link), shown)
    shown = re.sub(r"\]\([^)]*\)", _blank, shown)
    for word in longer:
        if re.search(pattern, word, re.IGNORECASE):
            shown = _written(word).sub(_blank, shown)
    return _written(pattern).search(shown)


@lru_cache(maxsize=2)
def _running_text(text: str) -> str:
    """Return the text, as long as it was, with blanks for all but prose and its links."""
    return SKIPPED.sub(_blank, prose(text))


def _written(pattern: str) -> "re.Pattern[str]":
    return re.compile(rf"(?<![\w-])(?:{pattern})(?![\w-])", re.IGNORECASE)


def _blank(match: "re.Match[str]") -> str:
    return re.sub(r"[^\n]", " ", match[0])


if __name__ == "__main__":
    for page in pages():
        if page != FILE:
            page.write_text(linked(page, page.read_text()))
