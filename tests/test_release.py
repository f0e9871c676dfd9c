"""A release is built only of what agrees about its version."""

import shutil
from pathlib import Path

import pytest

from tests.support.project import ROOT
from tests.support.release import disagreements, notes

CHART = "deploy/helm/upright/Chart.yaml"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in ("pyproject.toml", "client/pyproject.toml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## 0.1.0\n- all of it\n")
    (tmp_path / CHART).parent.mkdir(parents=True)
    (tmp_path / CHART).write_text('version: 0.1.0\nappVersion: "0.1.0" # the tag\n')
    return tmp_path


def test_what_agrees_is_released(checkout: Path) -> None:
    assert [*disagreements(checkout, "0.1.0")] == []


@pytest.mark.parametrize("version", ["0.1", "v0.1.0", "01.1.0", "0.1.0+build", "latest", ""])
def test_a_version_is_semver(checkout: Path, version: str) -> None:
    assert f"{version}: is no version" in "\n".join(disagreements(checkout, version))


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("pyproject.toml", 'version = "0.1.0"', 'version = "0.1.1"'),
        ("client/pyproject.toml", 'version = "0.1.0"', 'version = "0.1.1"'),
        (CHART, "\nappVersion: ", "\nappVersion: 0."),
        (CHART, "version: 0.1.0", "version: 0.1.1"),
        ("CHANGELOG.md", "## 0.1.0", "## Unreleased"),
    ],
)
def test_what_disagrees_is_named(checkout: Path, name: str, old: str, new: str) -> None:
    text = (checkout / name).read_text()
    (checkout / name).write_text(text.replace(old, new, 1))
    (problem,) = disagreements(checkout, "0.1.0")
    assert problem.startswith(f"{name}: ")


def test_the_notes_say_what_to_push_and_how_to_check_it() -> None:
    text = notes("0.1.0", "sha256:0")
    for part in ("twine upload", "cosign sign", "cosign verify", "helm push", "--verify-key"):
        assert part in text
