"""Variables, flags and endpoints that deploy/ and its pages name are the service's own."""

import re

from service.endpoints import find_endpoint
from service.settings import Settings, flag, variable
from tests.support.project import ROOT

SUFFIXES = {".conf", ".json", ".md", ".service", ".tpl", ".txt", ".yaml", ".yml"}
FILES = [
    ROOT / "Dockerfile",
    ROOT / "docs" / "kubernetes.md",
    ROOT / "docs" / "kserve.md",
    *(path for path in (ROOT / "deploy").rglob("*") if path.suffix in SUFFIXES),
]


def test_each_variable_is_one_that_the_service_reads() -> None:
    known = {variable(name) for name in Settings.model_fields}
    for file in FILES:
        named = set(re.findall(r"\bUPRIGHT_[A-Z_]+\b", file.read_text()))
        assert named <= known, file


def test_each_flag_in_a_list_of_arguments_is_the_services() -> None:
    known = {flag(name) for name in Settings.model_fields}
    count = 0
    for file in FILES:
        if file.suffix not in (".yaml", ".tpl"):
            continue
        # As an item of a list: what a comment says of other programs is none.
        item = re.compile(r"""^\s*- (?:\{\{ )?(?:printf )?"?(--[a-z-]+)""", re.MULTILINE)
        named = item.findall(file.read_text())
        assert set(named) <= known, file
        count += len(named)
    assert count > 25


def test_each_endpoint_that_a_page_names_is_there() -> None:
    for name in ("kubernetes.md", "kserve.md"):
        text = (ROOT / "docs" / name).read_text()
        paths = re.findall(r"(?<=[`\w])(/(?:act|v2|health|shadow|model|metrics)[\w/-]*)", text)
        assert paths
        for path in paths:
            assert find_endpoint(path) is not None, path
