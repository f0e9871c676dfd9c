"""Follows the pages word by word: `make docs-check`, or `python -m tests.page_commands [PAGE …]`.

Each page is followed in a copy of the checkout of its own, with a shell of its own and an
environment that `make` has yet to fill, so that no page needs what it does not say. Ports are
others than the pages', so that nothing else is in the way. What is not run is counted, with the
reason that the page gives.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.request
from pathlib import Path

from tests.support.pages import NOT_COMMANDS, Block, blocks, examples, pages
from tests.support.project import ROOT
from tests.support.service import clean_environment, free_port, wait_for

PORTS = re.compile(r"\b(8000|8001)\b")  # as the pages write them
SOCKET = "/tmp/upright.sock"  # noqa: S108 - as the pages write it
ANY_VALUE = re.compile(r"-?\d+\.\d+(?:e[+-]?\d+)?|sha256:[0-9a-f]{64}")
DONE = "the block is done:"


class PageError(Exception):
    """Raised when a page does not do what it says."""


class Reader:
    """Somebody who follows one page: a copy of the checkout, and a shell in it."""

    def __init__(self, folder: Path) -> None:
        """Copy the checkout and open a shell."""
        self.folder = folder
        folder.mkdir()
        _copy(folder)
        self._ports = {port: str(free_port()) for port in ("8000", "8001")}
        environment = clean_environment() | {
            "PATH": os.defpath + os.pathsep + str(Path(sys.executable).resolve().parent),
            "UPRIGHT_PORT": self._ports["8000"],
        }
        environment.pop("PYTHONPATH", None)
        self._shell = subprocess.Popen(
            ["/bin/bash"],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._stays = False
        self._ask("set -m", keep=True)  # what stays has a process group of its own

    def follow(self, block: Block) -> None:
        """Do what a block says; raise `PageError` if it does not come out."""
        if block.address:
            self._stay(block)
        elif block.language == "console":
            for example in examples(block):
                _, printed = self._ask(self._replaced(example.command))
                printed += "" if printed.endswith("\n") else "\n"
                if ANY_VALUE.sub("…", printed) != ANY_VALUE.sub("…", example.printed):
                    raise PageError(f"{example.command}\nprinted\n{printed}")
        else:
            command = self._replaced(block.text)
            if block.language == "python":
                (self.folder / "of_the_page.py").write_text(command)
                command = "$(command -v python || command -v python3) of_the_page.py"
            code, printed = self._ask(f"set -e\n{command}", keep=block.language == "sh")
            if code:
                raise PageError(f"exit code {code}\n{printed}")

    def leave(self) -> None:
        """End the shell, and what it has started."""
        self._end_what_stays()
        self._shell.kill()
        self._shell.wait()

    def _stay(self, block: Block) -> None:
        self._end_what_stays()
        self._ask(f"({self._replaced(block.text)}\n) >stays.log 2>&1 &\nSTAYS=$!", keep=True)
        self._stays = True
        address = self._replaced(block.address)
        try:
            wait_for(lambda: _answers(address), 300)
        except AssertionError:
            log = (self.folder / "stays.log").read_text()
            raise PageError(f"{address} never answered\n{log}") from None

    def _end_what_stays(self) -> None:
        if self._stays:
            self._ask("kill -INT -- -$STAYS; wait $STAYS", keep=True)
            self._stays = False

    def _ask(self, command: str, *, keep: bool = False) -> tuple[int, str]:
        """Run a command in the shell; return its exit code and what it prints.

        With `keep` it changes the shell itself, as `. .venv/bin/activate` does.
        """
        assert self._shell.stdin
        assert self._shell.stdout
        begin, end = ("", "set +e") if keep else ("(", ")")
        self._shell.stdin.write(f"{begin}\n{command}\n{end}\necho '{DONE}' $?\n")
        self._shell.stdin.flush()
        printed = ""
        for line in self._shell.stdout:
            before, done, code = line.partition(DONE)
            printed += before
            if done:
                return int(code), printed
        return self._shell.wait(), printed

    def _replaced(self, text: str) -> str:
        text = text.replace(SOCKET, str(self.folder.parent / "upright.sock"))
        return PORTS.sub(lambda match: self._ports[match[0]], text)


def _copy(folder: Path) -> None:
    """Copy what git would clone, and make an environment that borrows the packages of this one."""
    listed = subprocess.run(
        ["/usr/bin/env", "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    subprocess.run([sys.executable, "-m", "venv", folder / ".venv"], check=True)
    (packages,) = (folder / ".venv" / "lib").glob("python3.*/site-packages")
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=1):  # noqa: S310 - the page's own address
            return True
    except OSError:
        return False


def follow(page: Path) -> tuple[int, list[Block], str]:
    """Follow a page; return how many blocks were run, those that were not, and what failed."""
    commands = [block for block in blocks(page) if block.language not in NOT_COMMANDS]
    left_out = [block for block in commands if block.reason]
    run = 0
    if len(left_out) == len(commands):
        return run, left_out, ""
    with tempfile.TemporaryDirectory() as folder:
        reader = Reader(Path(folder) / "upright")
        try:
            for block in commands:
                if not block.reason:
                    reader.follow(block)
                    run += 1
        except PageError as failure:
            return run, left_out, f"{block.place}: {failure}"
        finally:
            reader.leave()
    return run, left_out, ""


def main(names: list[str]) -> int:
    """Follow the pages that are named, or all; return 1 if one does not do what it says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pages", nargs="*", metavar="PAGE", help="such as docs/calling.md")
    chosen = [ROOT / name for name in parser.parse_args(names).pages]
    for page in chosen:
        if not page.is_file():
            parser.error(f"there is no page {page.relative_to(ROOT)}")

    total, left_out, failures = 0, list[Block](), list[str]()
    for page in chosen or pages():
        began = time.monotonic()
        run, not_run, failure = follow(page)
        total, left_out = total + run, left_out + not_run
        seconds = time.monotonic() - began
        print(f"{page.relative_to(ROOT)}: {run} blocks run, {seconds:.0f} s", flush=True)
        if failure:
            failures.append(failure)
            print(failure, flush=True)

    print(f"\n{total} blocks run, {len(failures)} pages failed, {len(left_out)} blocks not run:")
    for block in left_out:
        print(f"  {block.place}: {block.reason}")
    return 1 if failures else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
