"""What keys and TLS cost: services without either, with keys and with TLS, loaded in turns.

    python -m benchmarks.serving.keys_and_tls

Server and load have a core each. Ratios are taken within a round, of requests a second and of the
server's processor time; needs wrk.
"""

import json
import os
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import trustme

from benchmarks.calling.served import circumstances, free_port
from benchmarks.environments import ROOT
from benchmarks.serving.measure import CORES
from benchmarks.serving.peers import HERE

ROUNDS = 9
SECONDS = 2
CONNECTIONS = 16
BODY = b'{"state":[0,0,0.05,0]}'


class Load(NamedTuple):
    """What one run of wrk saw."""

    rate: float  # requests a second
    cpu_us: float  # of the server, for a request


def main() -> None:
    """Measure in turns and print a table."""
    key = f"upright_{secrets.token_urlsafe(32)}"
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        (folder / "body.json").write_bytes(BODY)
        authority = trustme.CA()
        made = authority.issue_cert("127.0.0.1")
        made.cert_chain_pems[0].write_to_path(folder / "certificate.pem")
        made.private_key_pem.write_to_path(folder / "key.pem")
        tls = ("--tls-cert", str(folder / "certificate.pem"), "--tls-key", str(folder / "key.pem"))
        kinds = {
            "neither": ((), None),
            "neither, again": ((), None),
            "neither, asked with a key": ((), key),
            "1 key": (("--keys", str(_keys(folder / "1.toml", key, 1))), key),
            "10 keys": (("--keys", str(_keys(folder / "10.toml", key, 10))), key),
            "100 keys": (("--keys", str(_keys(folder / "100.toml", key, 100))), key),
            "TLS": (tls, None),
        }
        servers = {
            kind: stack.enter_context(_serving(*flags)) for kind, (flags, _) in kinds.items()
        }
        seen: dict[str, list[Load]] = {kind: [] for kind in kinds}
        for number in range(ROUNDS + 1):
            for kind, (_, presented) in kinds.items():
                scheme = "https" if kind == "TLS" else "http"
                port, process = servers[kind]
                load = _load(
                    f"{scheme}://127.0.0.1:{port}/act", process, presented, folder / "body.json"
                )
                if number:  # the first round warms up
                    seen[kind].append(load)
    facts = circumstances()
    print(
        f"{facts['date']}, Python {facts['python']}, {facts['versions']}, load"
        f" {facts['load']:.2f}\n"
    )
    print(
        "| service | requests/s | to neither (least, most) | CPU µs | to neither (least, most) |\n"
        + "| --- " * 5
        + "|"
    )
    for kind, loads in seen.items():
        cells = [kind]
        for what in ("rate", "cpu_us"):
            ratios = [
                getattr(load, what) / getattr(base, what)
                for load, base in zip(loads, seen["neither"], strict=True)
            ]
            cells.append(f"{statistics.median(getattr(load, what) for load in loads):,.6g}")
            cells.append(f"{statistics.median(ratios):.3f} ({min(ratios):.3f}, {max(ratios):.3f})")
        print(f"| {' | '.join(cells)} |")


def _keys(file: Path, key: str, count: int) -> Path:
    """Write a file of so many keys, of which the last one is presented."""
    hashes = [sha256(secrets.token_bytes(32)).hexdigest() for _ in range(count - 1)] + [
        sha256(key.encode()).hexdigest()
    ]
    file.write_text(
        "".join(
            f'[[key]]\nname = "k{number}"\nscopes = ["act"]\nsha256 = "{one}"\n'
            for number, one in enumerate(hashes)
        )
    )
    return file


@contextmanager
def _serving(*flags: str) -> Iterator[tuple[int, int]]:
    """Serve until the end of the block; gives the port and the process."""
    port = free_port()
    taskset = shutil.which("taskset") or sys.exit("taskset is needed: apt-get install util-linux")
    command = [
        taskset,
        "-c",
        str(CORES[0]),
        sys.executable,
        "-m",
        "service",
        "--port",
        str(port),
        "--drain",
        "0",
        *flags,
    ]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None  # noqa: S101 - it is a pipe
            for line in process.stderr:
                if "startup complete" in line:
                    break
            else:
                sys.exit("a service did not start")
            yield port, process.pid
        finally:
            process.terminate()


def _load(url: str, process: int, key: str | None, body: Path) -> Load:
    """Load a server, all of whose answers must be good."""
    wrk = shutil.which("wrk") or sys.exit("wrk is needed: apt-get install wrk")
    command = [
        "taskset",
        "-c",
        str(CORES[-1]),
        wrk,
        "-t1",
        f"-c{CONNECTIONS}",
        f"-d{SECONDS}s",
        "-s",
        str(HERE / "load.lua"),
    ]
    if key is not None:
        command += ["-H", f"Authorization: Bearer {key}"]
    environment = {"BODY": str(body), "PATH": os.environ["PATH"]}
    before = _cpu_seconds(process)
    run = subprocess.run(
        [*command, url], env=environment, capture_output=True, text=True, check=True
    )
    cpu = _cpu_seconds(process) - before
    seen = json.loads(run.stdout.strip().splitlines()[-1])
    if seen["failed"] or not seen["requests"]:
        sys.exit(f"{url}: {seen['failed']} of {seen['requests']} requests failed")
    return Load(round(seen["requests"] / seen["seconds"]), round(cpu / seen["requests"] * 1e6, 2))


def _cpu_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
