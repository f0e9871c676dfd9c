"""The real service as a process: how tests start it, wait for it and read its refusals."""

import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

from service.settings import Settings
from tests.support.project import ROOT


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def service(port: int, *arguments: str) -> Iterator["subprocess.Popen[bytes]"]:
    command = [sys.executable, "-m", "service", "--port", str(port), *arguments]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=clean_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            wait_for(lambda: reachable(port))
            yield process
        finally:
            process.kill()


def reachable(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def wait_for(claim: Callable[[], bool], seconds: float = 30.0) -> None:
    for _ in range(int(seconds / 0.02)):
        if claim():
            return
        time.sleep(0.02)
    raise AssertionError("it never came true")


Start = Callable[..., AbstractContextManager[str]]


def settings(**changes: object) -> Settings:
    # Starlette's test client calls every application by this name.
    return Settings.model_validate({"allowed_host": ["testserver"], **changes})


def clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("UPRIGHT_")}


def run_program(
    *arguments: str | Path,
    program: tuple[str, ...] = ("-m", "service"),
    shell: str = "",
    environment: dict[str, str] | None = None,
    file_limit: int | None = None,
) -> "subprocess.CompletedProcess[str]":
    """Run Python with a program until it ends.

    `shell` is a line of sh in which "$@" stands for that command. No file grows over `file_limit`
    bytes.
    """
    limit = None
    if file_limit is not None:
        limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (file_limit, file_limit))
    prefix = ("/bin/sh", "-c", shell, "sh") if shell else ()
    return subprocess.run(
        [*prefix, sys.executable, *program, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=clean_environment() | (environment or {}),
        preexec_fn=limit,
    )


def refused(
    *arguments: str, environment: dict[str, str] | None = None, file_limit: int | None = None
) -> tuple[int, str]:
    """Return the exit code and the error of a start that is refused."""
    result = run_program("--port", "0", *arguments, environment=environment, file_limit=file_limit)
    return result.returncode, result.stderr
