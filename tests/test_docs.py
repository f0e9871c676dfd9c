"""The documents say what the service does: the requests, the settings, the OpenAPI document."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from pydantic_settings import CLI_SUPPRESS

from service.settings import Settings
from tests.support import openapi, settings_page
from tests.support.programs import needed
from tests.support.project import ROOT
from tests.support.service import free_port, reachable, service, wait_for

API = ROOT / "docs" / "api.md"
ANY_VALUE = re.compile(
    r"-?\d+\.\d+(?:e[+-]?\d+)?|sha256:[0-9a-f]{64}"
)  # differ from bundle to bundle


@dataclass
class Example:
    """A command of a document, and what it prints there."""

    command: str
    printed: str


def examples(text: str) -> list[Example]:
    parsed: list[Example] = []
    for block in re.findall(r"^```console\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        for line in block.splitlines():
            if line.startswith("$ "):
                parsed.append(Example(line[2:], ""))
            elif line.startswith("> "):
                parsed[-1].command += "\n" + line[2:]
            else:
                parsed[-1].printed += line + "\n"
    return parsed


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
    "example", examples(API.read_text()), ids=lambda example: example.command[:80]
)
def test_each_request_of_the_document_prints_what_the_document_says(
    example: Example, replaced: dict[str, str]
) -> None:
    if example.command.startswith("curl"):
        needed("curl")
    assert ANY_VALUE.sub("…", printed(example.command, replaced)) == ANY_VALUE.sub(
        "…", example.printed
    )


@pytest.mark.parametrize("file", ["README.md", "client/README.md"])
def test_the_clients_first_program_is_decided_by_the_policy(
    file: str, replaced: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    (program,) = re.findall(
        r"^```python\n(.*?)^```$", (ROOT / file).read_text(), re.DOTALL | re.MULTILINE
    )
    # A loaded machine may take longer than a loop's deadline; everything else is as it stands.
    program = program.replace("127.0.0.1:8000", replaced["127.0.0.1:8000"]).replace(
        "deadline=0.02", "deadline=5.0"
    )
    exec(program + "\nprint(decision.action, decision.source)", {})  # noqa: S102 - our own document
    assert capsys.readouterr().out.endswith("1 policy\n")


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


def test_links_between_the_documents_lead_somewhere() -> None:
    for file in [
        ROOT / "README.md",
        ROOT / "examples/README.md",
        ROOT / "client/README.md",
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "deploy").rglob("*.md"),
    ]:
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", file.read_text()):
            assert (file.parent / link).exists(), f"{file.relative_to(ROOT)}: {link}"
