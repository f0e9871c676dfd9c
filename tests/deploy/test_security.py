"""Trivy finds nothing unsafe in what ships, save for what .trivyignore gives a reason for."""

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.objects import render
from tests.deploy.test_chart import MATRIX
from tests.support.deploy_tools import run
from tests.support.project import ROOT

IGNORED = ROOT / ".trivyignore"
QUIET = ("--skip-check-update", "--skip-version-check", "--quiet", "--format", "json")


def findings(folder: Path) -> set[str]:
    """Return the checks of Trivy that fail for files of a folder, whatever is ignored."""
    program = Path(sys.executable).with_name("trivy")
    text = run(program, "config", *QUIET, "--ignorefile", "/dev/null", folder)
    results: list[dict[str, Any]] = json.loads(text)["Results"]
    assert sum(each["MisconfSummary"]["Successes"] for each in results) > 60
    return {found["ID"] for each in results for found in each.get("Misconfigurations", [])}


def test_nothing_unsafe_is_found_but_what_has_a_reason(tmp_path: Path) -> None:
    listed = re.findall(r"^[A-Z].*$", IGNORED.read_text(), re.MULTILINE)
    reasons = re.findall(r"(?:^#.*\n)+((?:^[A-Z]+-\d+\n)+)", IGNORED.read_text(), re.MULTILINE)
    assert "".join(reasons).split() == listed
    assert len(listed) <= 3

    # On OpenShift the cluster gives the ids, which no file can show.
    for title in ("as it is", "a canary by image", "bundle from a URL", "keys and TLS"):
        (tmp_path / f"{title}.yaml").write_text(yaml.safe_dump_all(render(MATRIX[title])))
    for path in (ROOT / "deploy/kserve").glob("*.yaml"):
        shutil.copy(path, tmp_path)
    shutil.copy(ROOT / "Dockerfile", tmp_path)
    assert findings(tmp_path) == set(listed)


def test_a_root_that_can_be_written_is_found(tmp_path: Path) -> None:
    text = yaml.safe_dump_all(render({}))
    right = "readOnlyRootFilesystem: true"
    assert right in text
    (tmp_path / "all.yaml").write_text(text.replace(right, "readOnlyRootFilesystem: false"))
    assert "KSV-0014" in findings(tmp_path)
