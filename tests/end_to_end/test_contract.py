"""The service does what its OpenAPI document says, whatever the document allows or forbids."""

import re
import subprocess
import sys
from pathlib import Path

from hypothesis import settings as hypothesis_settings

from tests.support.project import ROOT
from tests.support.service import Start

LONG = 10_000  # examples of the profile "long"
PROGRAM = "from schemathesis.cli import schemathesis; schemathesis()"


def test_no_request_that_the_document_knows_gets_an_answer_that_it_does_not(
    start: Start, tmp_path: Path
) -> None:
    """`--hypothesis-profile long` asks more than five thousand times."""
    is_long = hypothesis_settings().max_examples == LONG
    with start() as address:
        asked = [
            f"{address}/openapi.json",
            "--checks",
            "all",
            "--seed",
            "1",
            "--max-examples",
            "1500" if is_long else "30",
            "--no-color",
        ]
        result = subprocess.run(
            [
                sys.executable,
                "-c",
                PROGRAM,
                "--config-file",
                str(ROOT / "tests" / "schemathesis.toml"),
                "run",
                *asked,
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
    assert result.returncode == 0, result.stdout
    cases = re.search(r"(\d+) generated, (\d+) passed", result.stdout)
    assert cases is not None
    assert int(cases[1]) == int(cases[2]) > (5_000 if is_long else 150)
