"""Environments of peers: each holds exactly what its requirements file names.

They are made once, and git ignores them.
"""

import platform
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks" / ".peers"


def environment(name: str, requirements: Path, *stands_on: Path) -> Path:
    """Return the folder of the environment.

    It is made anew when the requirements, or a file that they stand on, have changed.
    """
    folder = FOLDER / name
    stamp, wanted = (
        folder / "requirements.txt",
        "".join(file.read_text() for file in (requirements, *stands_on)),
    )
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"installing {name} …", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        install = [
            str(folder / "bin" / "pip"),
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--requirement",
        ]
        subprocess.run([*install, str(requirements)], check=True, cwd=ROOT)
        stamp.write_text(wanted)
    return folder


def processor() -> str:
    """Return the name of this machine's processor."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
