"""A rolling restart of two processes behind nginx, under load: how many requests fail.

python -m benchmarks.operations.restart            each process is restarted five times
python -m benchmarks.operations.restart --others   the same by nginx's own rule, and by SIGKILL

The load is 1,000 requests a second for a minute. nginx's own rule never repeats a POST; SIGKILL
stands in the place of SIGTERM.

nginx runs by itself, in a temporary folder, with deploy/nginx/upright.conf.
"""

import argparse
import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import uvloop

from benchmarks.calling.served import ROOT, free_port, ready
from benchmarks.operations.load import Found, Load

CONFIG = ROOT / "deploy" / "nginx" / "upright.conf"
RETRIES = "proxy_next_upstream error timeout non_idempotent;"
MAIN = """worker_processes 1;
daemon off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/upright.conf;
}}
"""


class Process:
    """One process of the service."""

    def __init__(self, port: int, *flags: str) -> None:
        self.port, self._flags = port, flags
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; returns when it is ready."""
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("UPRIGHT_")
        }
        arguments = [sys.executable, "-m", "service", "--port", str(self.port), "--drain", "1"]
        arguments += self._flags
        self._process = subprocess.Popen(
            arguments,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while not ready(self.port):
            if self._process.poll() is not None:
                sys.exit(f"the service did not start: exit code {self._process.returncode}")
            time.sleep(0.02)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Tell it to stop; returns its exit code."""
        assert self._process is not None  # noqa: S101 - it was started
        self._process.send_signal(number)
        return self._process.wait()

    def kill(self) -> None:
        """End it, if it was started."""
        if self._process is not None:
            self.stop(signal.SIGKILL)


@contextmanager
def nginx(ports: tuple[int, int], text: str) -> Iterator[int]:
    """Run nginx before two ports until the end of the block; gives its own."""
    program = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if program is None:
        sys.exit("nginx is needed: on Debian, apt-get install --no-install-recommends nginx-light")
    own = free_port()
    for before, after in (("8001", str(ports[0])), ("8002", str(ports[1])), ("8080", str(own))):
        text = text.replace(f"127.0.0.1:{before}", f"127.0.0.1:{after}")
    with tempfile.TemporaryDirectory(prefix="upright-nginx-") as folder:
        Path(folder, "upright.conf").write_text(text)
        config = Path(folder, "nginx.conf")
        config.write_text(MAIN.format(folder=folder))
        with subprocess.Popen(
            [program, "-c", str(config), "-e", f"{folder}/error.log", "-p", folder],
            stderr=subprocess.DEVNULL,
        ) as process:
            try:
                while not ready(own):
                    if process.poll() is not None:
                        sys.exit(f"nginx did not start:\n{Path(folder, 'error.log').read_text()}")
                yield own
            finally:
                process.terminate()


async def measure(
    text: str, rate: float, seconds: float, restarts: int, number: signal.Signals = signal.SIGTERM
) -> tuple[Found, list[int]]:
    """Return what the load saw while each process was restarted so often, and the exit codes."""
    processes = Process(free_port()), Process(free_port())
    codes: list[int] = []
    for process in processes:
        process.start()
    try:
        with nginx((processes[0].port, processes[1].port), text) as port:

            async def restart() -> None:
                await asyncio.sleep(seconds / (2 * restarts + 1) / 2)
                for _ in range(restarts):
                    for process in processes:
                        begun = asyncio.get_running_loop().time()
                        codes.append(await asyncio.to_thread(process.stop, number))
                        await asyncio.to_thread(process.start)
                        await asyncio.sleep(
                            max(
                                0.0,
                                begun
                                + seconds / (2 * restarts + 1)
                                - asyncio.get_running_loop().time(),
                            )
                        )

            found, _ = await asyncio.gather(Load(port).run(rate, seconds), restart())
    finally:
        for process in processes:
            process.stop(signal.SIGKILL)
    return found, codes


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rate", type=float, default=1_000, help="requests a second")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--restarts", type=int, default=5, help="of each process")
    parser.add_argument("--others", action="store_true", help="other ways of doing it, too")
    options = parser.parse_args()
    text = CONFIG.read_text()
    ways = {"deploy/nginx/upright.conf, SIGTERM": (text, signal.SIGTERM)}
    if options.others:
        ways["nginx's own rule for POST, SIGTERM"] = (
            text.replace(RETRIES, "proxy_next_upstream error timeout;"),
            signal.SIGTERM,
        )
        ways["deploy/nginx/upright.conf, SIGKILL"] = (text, signal.SIGKILL)
        ways["nginx's own rule for POST, SIGKILL"] = (
            text.replace(RETRIES, "proxy_next_upstream error timeout;"),
            signal.SIGKILL,
        )
    said = subprocess.run(
        ["/usr/sbin/nginx", "-v"], capture_output=True, text=True, check=False
    ).stderr
    print(
        f"{re.sub('.*: ', '', said.strip())}, uvicorn {version('uvicorn')}, {options.rate:.0f}"
        f" requests/s for {options.seconds:.0f} s\n"
    )
    print(
        "| way | restarts | requests | failed | p50 ms | p99 ms | longest ms |\n| --- | --- |"
        " --- | --- | --- | --- | --- |",
        flush=True,
    )
    worst = 0
    for name, (config, number) in ways.items():
        found, codes = uvloop.run(
            measure(config, options.rate, options.seconds, options.restarts, number)
        )
        print(f"| {name} | {len(codes)} | {found.row()} |", flush=True)
        for failure, times in found.failures.most_common(5):
            print(f"  {times} × {failure}")
        if number == signal.SIGTERM and config == text:
            worst = sum(found.failures.values()) + sum(code != 0 for code in codes)
    sys.exit(int(worst > 0))


if __name__ == "__main__":
    main()
