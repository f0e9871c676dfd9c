"""The image run as an operator should run it, looked at from outside and from inside.

Its root is read-only, it has no capabilities, and a numeric user of its own.

    make image
    python -m benchmarks.operations.image

Needs root, and Debian's packages buildah and runc. Nothing of the container is reachable from
outside: what is asked is asked within.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.calling.served import BUNDLE
from models import bundle

BUILDAH, RUNC = (
    shutil.which(name) or sys.exit(f"{name} is needed: apt-get install {name}")
    for name in ("buildah", "runc")
)
NAME = f"upright-check-{os.getpid()}"
GOLDEN = bundle.read(BUNDLE).manifest.golden_states[0]
ASK = """
import sys, urllib.request
with urllib.request.urlopen("http://127.0.0.1:8000/act", sys.argv[1].encode(), 5) as answer:
    print(answer.read().decode())
"""
WRITE = """
import errno
for place in ("/", "/app", "/opt/venv", "/etc", "/var"):
    try:
        open(place + "/x", "w")
    except OSError as error:
        print(errno.errorcode[error.errno])
"""
NO_CAPABILITIES: dict[str, list[str]] = {
    kind: [] for kind in ("bounding", "effective", "permitted", "inheritable", "ambient")
}


def output(*command: str) -> str:
    """Return what a command prints. Raises `CalledProcessError`."""
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


@contextlib.contextmanager
def mounted(image: str) -> Iterator[Path]:
    """Give the root of a container made from the image, until the end of the block."""
    container = output(BUILDAH, "from", "--pull-never", image).strip()
    try:
        yield Path(output(BUILDAH, "mount", container).strip())
    finally:
        output(BUILDAH, "rm", container)


@contextlib.contextmanager
def running(root: Path, image: dict[str, Any], folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Run the image's own command as its own user; gives the runtime's process."""
    output(RUNC, "spec", "--bundle", str(folder))
    spec = json.loads((folder / "config.json").read_text())
    user, group = (int(part) for part in image["User"].split(":"))  # fails if it is a name
    spec["process"] |= {
        "terminal": False,
        "user": {"uid": user, "gid": group},
        "args": image["Cmd"],
        "cwd": image["WorkingDir"],
        "env": image["Env"],
        "capabilities": NO_CAPABILITIES,
        "noNewPrivileges": True,
    }
    spec["root"] = {"path": str(root), "readonly": True}
    spec["mounts"].append(
        {
            "destination": "/tmp",  # noqa: S108 - within the container
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "nodev"],
        }
    )
    (folder / "config.json").write_text(json.dumps(spec))
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(
            (RUNC, "run", "--bundle", str(folder), NAME),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        ) as process,
    ):
        try:
            until = time.monotonic() + 30
            while "startup complete" not in (folder / "log").read_text():
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError((folder / "log").read_text())
                time.sleep(0.05)
            yield process
        finally:
            if process.poll() is None:
                output(RUNC, "kill", NAME, "KILL")


def inside(*command: str) -> str:
    """Return what a command prints in the container, as the service's user."""
    return output(RUNC, "exec", NAME, *command)


def _values(fields: str, status: str) -> str:
    """Return what the kernel says of a process in some fields, each value once."""
    lines = re.findall(rf"^(?:{fields}):(.*)$", status, re.MULTILINE)
    return " ".join(sorted({value for line in lines for value in line.split()}))


def main() -> None:
    """Run the image, look at it from both sides, print a table; fail where it is wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("image", nargs="?", default="upright:latest")
    name = parser.parse_args().image
    image = json.loads(output(BUILDAH, "inspect", "--type", "image", name))["Docker"]["config"]
    with (
        tempfile.TemporaryDirectory() as folder,
        mounted(name) as root,
        running(root, image, Path(folder)) as process,
    ):
        pid = json.loads(output(RUNC, "state", NAME))["pid"]
        status = Path(f"/proc/{pid}/status").read_text()
        answer = json.loads(inside("python", "-c", ASK, json.dumps({"state": GOLDEN.state})))
        rows: dict[str, tuple[object, object]] = {
            "user and group": (_values("Uid|Gid", status), "10001"),
            "capabilities": (_values("Cap(?:Inh|Prm|Eff|Bnd|Amb)", status), "0" * 16),
            "no new privileges": (_values("NoNewPrivs", status), "1"),
            "writing to /, /app, /opt/venv, /etc, /var": (
                inside("python", "-c", WRITE).split(),
                ["EROFS"] * 5,
            ),
            "action of POST /act": (answer["action"], GOLDEN.q_values.index(max(GOLDEN.q_values))),
            "its health check": (inside(*image["Healthcheck"]["Test"][1:]), ""),
        }
        output(RUNC, "kill", NAME, "TERM")
        rows["exit code after SIGTERM"] = (process.wait(30), 0)
    print("| what | seen | as it should be |\n| --- | --- | --- |")
    for what, (seen, right) in rows.items():
        print(f"| {what} | {seen!r} | {'yes' if seen == right else f'no: {right!r}'} |")
    sys.exit(int(any(seen != right for seen, right in rows.values())))


if __name__ == "__main__":
    main()
