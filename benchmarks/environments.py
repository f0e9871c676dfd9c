"""Environments of peers: a requirements file in, a Python with exactly that installed out. Made once, and ignored by git."""

import hashlib
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent / ".peers"


def python_of(name: str, requirements: Path) -> Path:
    """Return the interpreter of a peer's environment; it is made anew when the requirements change."""
    environment = FOLDER / name
    python, stamp = environment / "bin" / "python", environment / "requirements.sha256"
    wanted = hashlib.sha256(requirements.read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text() != wanted:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(environment)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--requirement", str(requirements)], check=True)
        stamp.write_text(wanted)
    return python
