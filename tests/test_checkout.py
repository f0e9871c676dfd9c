"""A checkout is the same whatever git is set to do with line ends."""

import subprocess
from pathlib import Path

from models import bundle
from tests.support.project import COMMITTED, ROOT


def test_line_ends_of_another_system_change_no_digest_and_break_no_script(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    subprocess.run(
        ["git", "clone", "-q", "--config", "core.autocrlf=true", str(ROOT), str(checkout)],  # noqa: S607 - git is found by PATH
        check=True,
        capture_output=True,
    )
    cloned = bundle.read(checkout / COMMITTED.relative_to(ROOT))
    assert cloned.digest == bundle.read(COMMITTED).digest
    for script in (ROOT / ".ci" / "run", ROOT / "Makefile", *(ROOT / "examples").glob("*.sh")):
        assert b"\r" not in (checkout / script.relative_to(ROOT)).read_bytes()
