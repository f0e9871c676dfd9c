"""Starts the real service for a benchmark, and writes down what was measured."""

import contextlib
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[2]
BUNDLE = ROOT / "models" / "cartpole-dqn"
RESULTS = ROOT / "benchmarks" / "results"


@dataclass(frozen=True)
class Served:
    """A running service."""

    port: int
    socket: Path
    process: "subprocess.Popen[bytes]"

    @property
    def address(self) -> str:
        """Its HTTP address."""
        return f"http://127.0.0.1:{self.port}"


def free_port() -> int:
    """Return a loopback port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextlib.contextmanager
def served(
    port: int, bundle: Path = BUNDLE, command: tuple[str, ...] = ("-m", "service")
) -> Iterator[Served]:
    """Serve a bundle until the end of the block."""
    path = Path(f"/tmp/upright-benchmark-{port}.sock")  # noqa: S108 - a socket's path must be short
    arguments = [
        sys.executable,
        *command,
        "--port",
        str(port),
        "--uds",
        str(path),
        "--bundle",
        str(bundle),
    ]
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("UPRIGHT_")
    }
    with subprocess.Popen(
        arguments, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            while not ready(port):
                if process.poll() is not None:
                    raise RuntimeError(f"the service did not start: exit code {process.returncode}")
                time.sleep(0.02)
            yield Served(port, path, process)
        finally:
            process.kill()
            process.wait()
            path.unlink(missing_ok=True)


def ready(port: int, timeout: float = 0.5) -> bool:
    """Return whether the service says that it is ready."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout) as connection:
            connection.settimeout(timeout)
            connection.sendall(
                b"GET /health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            )
            return connection.recv(100).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def other_bundle(folder: Path) -> Path:
    """Write a bundle with the same policy and another digest."""
    shutil.copytree(BUNDLE, folder)
    manifest = folder / "manifest.json"
    changed = json.loads(manifest.read_text()) | {"version": "other"}
    manifest.write_text(json.dumps(changed))
    return folder


def circumstances() -> dict[str, object]:
    """Return what a figure depends on besides the code."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],  # noqa: S607 - the contributor's own git
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    names = ("fastapi", "uvicorn", "uvloop", "httptools", "websockets", "onnxruntime", "pydantic")
    cores = len(os.sched_getaffinity(0))
    return {
        "commit": commit,
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": cores,
        "load": os.getloadavg()[0],
        "versions": {name: version(name) for name in names},
    }


def write(name: str, figures: dict[str, object]) -> None:
    """Write figures and circumstances into the results' folder."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"calling-{name}.json").write_text(
        json.dumps(circumstances() | figures, indent=1) + "\n"
    )


def percentile(values: list[float], share: float) -> float:
    """Return the value that a share of all, from 0 to 1, do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
