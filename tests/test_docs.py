"""The documents say what the service does: the requests, the settings, the OpenAPI document."""

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic_settings import CLI_SUPPRESS

from service.settings import Settings
from tests.support import links, openapi, pages, settings_page
from tests.support.programs import needed
from tests.support.project import ROOT
from tests.support.service import free_port, reachable, service, wait_for

API = ROOT / "docs" / "api.md"
GLOSSARY = ROOT / "docs" / "glossary.md"
TROUBLESHOOTING = ROOT / "docs" / "troubleshooting.md"
DECIMAL = re.compile(r"-?\d+\.\d+(?:e[+-]?\d+)?")  # the last digits differ between processors
BLOCKS = [block for page in pages.pages() for block in pages.blocks(page)]


@pytest.fixture(scope="module")
def replaced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    http, grpc, path = free_port(), free_port(), tmp_path_factory.mktemp("docs") / "act.sock"
    with service(
        http, "--grpc-port", str(grpc), "--uds", str(path), "--shadow", "models/cartpole-dqn"
    ):
        wait_for(lambda: reachable(grpc))
        yield {
            "127.0.0.1:8000": f"127.0.0.1:{http}",
            "127.0.0.1:8001": f"127.0.0.1:{grpc}",
            "/tmp/upright.sock": str(path),  # noqa: S108 - the document's name for it
            "python ": f"{sys.executable} ",
        }


def decimals(text: str) -> list[float]:
    return [float(number) for number in DECIMAL.findall(text)]


def printed(command: str, replaced: dict[str, str]) -> str:
    for before, after in replaced.items():
        command = command.replace(before, after)
    result = subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env=os.environ | {"PYTHONWARNINGS": "ignore"},
    )
    return result.stdout if result.stdout.endswith("\n") else result.stdout + "\n"


@pytest.mark.parametrize(
    "example",
    [
        example
        for block in BLOCKS
        if block.language == "console" and not block.reason
        for example in pages.examples(block)
    ],
    ids=lambda example: example.command[:80],
)
def test_each_request_of_a_page_prints_what_the_page_says(
    example: pages.Example, replaced: dict[str, str]
) -> None:
    if example.command.startswith("curl"):
        needed("curl")
    seen = printed(example.command, replaced)
    assert DECIMAL.sub("…", seen) == DECIMAL.sub("…", example.printed)
    assert decimals(seen) == pytest.approx(decimals(example.printed), rel=1e-3)


@pytest.mark.parametrize(
    "block",
    [block for block in BLOCKS if block.language == "python" and not block.reason],
    ids=lambda block: block.place,
)
def test_each_program_of_a_page_gets_an_action(
    block: pages.Block, replaced: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    # A loaded machine may take longer than a loop's deadline; everything else is as it stands.
    program = block.text.replace("127.0.0.1:8000", replaced["127.0.0.1:8000"])
    program = program.replace("deadline=0.02", "deadline=5.0")
    if "decision =" in program:
        program += "\nprint(decision.action, decision.source)"
    exec(program, {})  # noqa: S102 - our own document
    last_line = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(r"1 policy|right|\[1, 0\] sha256:\w{64}", last_line)


def test_the_document_shows_every_endpoint() -> None:
    text = API.read_text()
    for endpoint in (
        *json.loads(openapi.document())["paths"],
        "/act/stream",
        "/v2/models",
        "/v2/repository",
        "gRPC",
    ):
        assert endpoint in text


def test_the_committed_openapi_document_is_the_applications() -> None:
    assert openapi.FILE.read_text() == openapi.document(), "run `make openapi`"


def test_the_page_lists_the_settings_as_they_are() -> None:
    assert settings_page.FILE.read_text() == settings_page.page(), "run `make settings`"


def test_the_help_names_every_setting_with_its_variable_and_its_meaning() -> None:
    command = [sys.executable, "-m", "service", "--help"]
    shown = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env=os.environ | {"COLUMNS": "999"},
    ).stdout
    shown = " ".join(shown.split())
    for name, field in Settings.model_fields.items():
        assert f"UPRIGHT_{name.upper()}" in shown
        if CLI_SUPPRESS in field.metadata:
            continue  # it has no flag; another's meaning names its variable
        assert re.search(rf"--{name.replace('_', '-')},? ", shown)  # a switch has a second form
        assert field.description
        assert field.description in shown


def test_every_link_between_the_documents_leads_to_a_page_and_a_heading() -> None:
    decisions = (ROOT / "docs" / "decisions").glob("*.md")
    others = [ROOT / name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")]
    for page in [*pages.pages(), *decisions, *others]:
        for file, anchor, link in _links(page):
            assert file.exists(), f"{page.relative_to(ROOT)}: {link}"
            if anchor and file.suffix == ".md":
                assert anchor in pages.anchors(file), f"{page.relative_to(ROOT)}: {link}"


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page not in reached and page.suffix == ".md":
            reached.add(page)
            waiting += [file for file, _, _ in _links(page)]
    assert set(pages.pages()) <= reached


def test_each_word_of_the_glossary_is_linked_where_a_page_first_uses_it() -> None:
    missing = [
        page.relative_to(ROOT)
        for page in pages.pages()
        if page != GLOSSARY and links.linked(page, page.read_text()) != page.read_text()
    ]
    assert not missing, "run `make links`"


def test_each_block_is_run_or_says_why_not() -> None:
    for block in BLOCKS:
        assert block.language in pages.RUN | pages.NEVER_RUN | pages.NOT_COMMANDS, block.place
        if block.language in pages.NEVER_RUN:
            assert block.reason, f"{block.place}: nothing here can run it, and it says no reason"
        assert not block.mark or block.reason or block.address, f"{block.place}: {block.mark}"


def test_each_figure_beside_a_link_to_measurements_stands_there() -> None:
    held = 0
    for page in pages.pages():
        for paragraph in re.split(r"\n\n|\n(?=[-|#] ?)|\n(?=\d\. )", pages.prose(page.read_text())):
            files = {
                file
                for file, _, _ in _links(page, paragraph)
                if file.parent.name == "measurements" and file != page
            }
            text = re.sub(r"`[^`]+`", "", pages.LINK.sub(lambda link: link["text"], paragraph))
            figures = re.findall(r"\d{1,3}(?:,\d{3})+|\d+\.\d+", text) if files else []
            measured = "".join(file.read_text() for file in files)
            assert [figure for figure in figures if figure not in measured] == [], paragraph
            held += len(figures)
    assert held > 8


def test_each_message_of_the_troubleshooting_page_is_one_that_our_programs_print() -> None:
    others = ("No module", "Address already", "ensurepip", "python:")  # Python's and the system's
    said = _texts_of_the_programs()
    symptoms = re.findall(r"^\| (.+?) \|", TROUBLESHOOTING.read_text(), re.MULTILINE)
    messages = [
        message
        for symptom in symptoms
        for message in re.findall(r"`([^`]+)`", symptom)
        if len(message.split()) > 3 and not message.startswith(others)
    ]
    assert len(messages) > 8
    for message in messages:
        for part in re.split(r"[… ]*…[… ]*|UPRIGHT_PORT", message):
            assert part.strip() in said, message


def _texts_of_the_programs() -> str:
    """Return every text in the code, with … for what is filled in, and the Makefile's."""
    texts = [(ROOT / "Makefile").read_text().replace("\\\n\t", "")]
    for folder in ("service", "training", "models", "client/upright_client"):
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    texts.append(node.value)
                elif isinstance(node, ast.JoinedStr):
                    texts.append(
                        "".join(
                            str(part.value) if isinstance(part, ast.Constant) else "…"
                            for part in node.values
                        )
                    )
    return "\n".join(texts)


def _links(page: Path, text: str = "") -> Iterator[tuple[Path, str, str]]:
    """Give file, anchor and text of each link within the repository, of a page or a part of it."""
    for link in pages.LINK.finditer(text or pages.prose(page.read_text())):
        if "://" not in link["target"]:
            target, _, anchor = link["target"].partition("#")
            file = (page.parent / target).resolve() if target else page
            yield file, anchor, link["target"]
