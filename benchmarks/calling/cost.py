"""What one call costs: `upright_client` beside raw sockets and beside general HTTP clients.

    python -m benchmarks.calling.cost

All call one service, in turns. The general clients live in an environment of their own
(runs/peers), so that none of them gets into the project's.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from benchmarks.calling.served import ROOT, free_port, percentile, served, write

ROUNDS = 5
CALLS = 2_000
PEERS = ROOT / "runs" / "peers"
PINS = ("httpx==0.28.1", "requests", "aiohttp==3.14.5")
KINDS = {
    "raw TCP": "raw",
    "act TCP": "upright",
    "async act TCP": "upright-async",
    "http.client": "http.client",
    "requests": "requests",
    "httpx": "httpx",
    "aiohttp": "aiohttp",
    "raw Unix": "raw-unix",
    "act Unix": "upright-unix",
    "raw stream": "raw-stream",
    "act stream": "upright-stream",
    "raw stream Unix": "raw-stream-unix",
    "act stream Unix": "upright-stream-unix",
}


def main() -> None:
    """Measure in turns, so that a disturbance disturbs all clients; print medians of rounds."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    python = PEERS / "bin" / "python"
    if not python.exists():
        venv.create(PEERS, with_pip=True)
        subprocess.run(
            [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PINS],
            check=True,
        )
    rounds: dict[str, list[tuple[float, float]]] = {name: [] for name in KINDS}
    with tempfile.TemporaryDirectory(), served(free_port()) as service:
        for _ in range(ROUNDS):
            for name, kind in KINDS.items():
                address = str(service.socket) if "unix" in kind else service.address
                command = [
                    str(python),
                    str(Path(__file__).with_name("caller.py")),
                    kind,
                    address,
                    str(CALLS),
                ]
                output = subprocess.run(
                    command, capture_output=True, text=True, check=False, cwd=ROOT
                )
                if output.returncode:
                    sys.exit(f"{name}: {output.stderr}")
                seconds = json.loads(output.stdout)
                rounds[name].append((percentile(seconds, 0.5), percentile(seconds, 0.99)))
    figures = {
        name: {
            "p50_us": round(1e6 * percentile([p50 for p50, _ in measured], 0.5), 1),
            "p99_us": round(1e6 * percentile([p99 for _, p99 in measured], 0.5), 1),
        }
        for name, measured in rounds.items()
    }
    base = {
        "TCP": "raw TCP",
        "Unix": "raw Unix",
        "stream": "raw stream",
        "stream Unix": "raw stream Unix",
    }
    print("| client | p50 µs | p99 µs | p50 to raw |\n| --- | --- | --- | --- |")
    for name, figure in figures.items():
        raw = base[
            next(
                (ending for ending in ("stream Unix", "stream", "Unix") if name.endswith(ending)),
                "TCP",
            )
        ]
        ratio = figure["p50_us"] / figures[raw]["p50_us"]
        print(f"| {name} | {figure['p50_us']} | {figure['p99_us']} | {ratio:.2f} |")
    peers = subprocess.run(
        [python, "-m", "pip", "freeze"], capture_output=True, text=True, check=True
    ).stdout.split()
    write("cost", {"figures": figures, "rounds": ROUNDS, "calls": CALLS, "peers": peers})


if __name__ == "__main__":
    main()
