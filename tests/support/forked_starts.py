"""Starts the service many times, quickly: as children of one process that has imported it already.

Each start has an environment of its own, and ends when the service runs or has ended by itself.
"""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from tests.support.project import COMMITTED, ROOT
from tests.support.service import clean_environment

RUNNING = re.compile(rb"startup complete")
LIMIT_SECONDS = 20


class Outcome(NamedTuple):
    """How a start ended: its exit code, None if it runs, and what it wrote."""

    code: int | None
    output: str


def starts(environments: Sequence[dict[str, str]], folder: Path, *arguments: str) -> list[Outcome]:
    """Start the service in `folder` with each of the environments; see how each start ends."""
    halves = [environments[0::2], environments[1::2]]  # for the two processors of a small machine
    with ThreadPoolExecutor(len(halves)) as pool:
        outcomes = list(pool.map(lambda half: _run_driver(half, folder, arguments), halves))
    merged = [Outcome(None, "")] * len(environments)
    merged[0::2], merged[1::2] = outcomes
    return merged


def _run_driver(
    environments: Sequence[dict[str, str]], folder: Path, arguments: Sequence[str]
) -> list[Outcome]:
    result = subprocess.run(
        [sys.executable, "-m", "tests.support.forked_starts", *arguments],
        input=json.dumps(environments),
        cwd=folder,
        env=clean_environment() | {"PYTHONPATH": f"{ROOT}:{ROOT / 'client'}"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=300,
    )
    return [Outcome(*each) for each in json.loads(result.stdout)]


def _start(environment: dict[str, str], arguments: Sequence[str]) -> Outcome:
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        _serve(environment, arguments, write_end)
    os.close(write_end)

    output = b""
    is_running = False
    signal.alarm(LIMIT_SECONDS)
    while not is_running and (piece := os.read(read_end, 65_536)):
        output += piece
        is_running = bool(RUNNING.search(output))
    signal.alarm(0)
    if is_running:
        os.kill(pid, signal.SIGKILL)
    os.close(read_end)
    _, status = os.waitpid(pid, 0)
    code = None if is_running else os.waitstatus_to_exitcode(status)
    return Outcome(code, output.decode(errors="replace"))


def _serve(environment: dict[str, str], arguments: Sequence[str], write_end: int) -> None:
    """Be the service, and never return."""
    import traceback

    from service.__main__ import main

    code = 99
    os.dup2(write_end, 1)
    os.dup2(write_end, 2)
    os.environ.update(environment)
    try:
        code = main(["--port", "0", "--drain", "0", *arguments])
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    """Answer the environments on standard input by their outcomes on standard output."""
    # What a start imports, so that the children need not. But not what reads the environment.
    for module in ("uvloop", "requests", "google.protobuf.message"):
        import_module(module)
    for module in ("service.commands.serve", "service.records.writer"):
        import_module(module)

    os.environ.setdefault("UPRIGHT_BUNDLE", str(COMMITTED))
    environments = json.load(sys.stdin)
    outcomes = [_start(environment, sys.argv[1:]) for environment in environments]
    json.dump(outcomes, sys.stdout)


if __name__ == "__main__":
    main()
