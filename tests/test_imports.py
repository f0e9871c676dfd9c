"""The rooms of the house and the ways between them."""

import ast
from pathlib import Path

import pytest

from tests.support.project import ROOT

ROOMS = ("training", "service", "models", "client", "upright_client", "tests", "benchmarks")
MAY_IMPORT = {
    "training": {"training", "models"},
    "service": {"service", "models"},
    "models": {"models"},
    "client": {"upright_client"},
}


def imports(file: Path) -> set[str]:
    """Return the top-level names that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports by full name, so that the way is seen"
            names.add((node.module or "").split(".")[0])
    return names


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_go_one_way(room: str) -> None:
    for file in (ROOT / room).rglob("*.py"):
        forbidden = (imports(file) & set(ROOMS)) - MAY_IMPORT[room]
        assert not forbidden, f"{file.relative_to(ROOT)} imports {forbidden}"


def test_the_contract_knows_no_runtime_and_no_server() -> None:
    for file in (ROOT / "models").rglob("*.py"):
        assert not imports(file) & {
            "torch",
            "onnx",
            "onnxruntime",
            "numpy",
            "fastapi",
            "starlette",
            "gymnasium",
        }


def test_every_module_says_what_it_is() -> None:
    for room in ("training", "service", "models", "benchmarks", "client"):
        for file in (ROOT / room).rglob("*.py"):
            if ".peers" in file.parts:
                continue  # other people's modules, in the environments that benchmarks make
            assert ast.get_docstring(ast.parse(file.read_text())), (
                f"{file.relative_to(ROOT)} has no docstring"
            )
