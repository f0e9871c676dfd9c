"""Where what a program needs is not installed, one line says so and what to do."""

import sys

import pytest

from tests.support.service import run_program

WITHOUT = """
import runpy, sys
sys.modules[sys.argv[2]] = None  # importing it now raises ModuleNotFoundError
program, _, *words = sys.argv[1:]
sys.argv = [program, *words]
runpy.run_module(program, run_name="__main__", alter_sys=True)
"""
WORDS = {"service": [], "training": ["train", "--out", "/nowhere/policy"]}


@pytest.mark.parametrize(
    ("program", "missing", "remedy"),
    [
        ("service", "pydantic_settings", "make serve"),
        ("service", "structlog", "make serve"),
        ("training", "rich", "make setup"),
        ("training", "tyro", "make setup"),
        ("training", "torch", "make setup"),
    ],
)
def test_what_is_not_installed_is_named_with_what_to_do(
    program: str, missing: str, remedy: str
) -> None:
    result = run_program(program, missing, *WORDS[program], program=("-c", WITHOUT))
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert f"{missing} is not installed for {sys.executable}" in result.stderr
    assert remedy in result.stderr
