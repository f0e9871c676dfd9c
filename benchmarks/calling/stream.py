"""The stream against HTTP on one connection, and the two WebSocket implementations that uvicorn can use against each other.

python -m benchmarks.calling.stream
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.calling.served import ROOT, free_port, percentile, served, write

ROUNDS = 5
CALLS = 5_000
WSPROTO = ROOT / "runs" / "wsproto"
PIN = "wsproto==1.3.2"
# The service with the other implementation in the place of its own; everything else is the same.
OTHER = (
    "import sys; from functools import partial; from service.__main__ import main; from service.server import server;"
    " from uvicorn.protocols.websockets.wsproto_impl import WSProtocol;"
    " server.WebSocketProtocol = lambda application, **rest: WSProtocol(**rest); sys.exit(main(sys.argv[1:]))"
)


def main() -> None:
    """Ask in turns, and print medians over the rounds."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    if not WSPROTO.exists():
        subprocess.run(
            [
                sys.executable,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--target",
                WSPROTO,
                PIN,
            ],
            check=True,
        )
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, (os.environ.get("PYTHONPATH"), str(WSPROTO)))
    )
    ways = {
        "HTTP": "raw",
        "HTTP, Unix socket": "raw-unix",
        "stream": "raw-stream",
        "stream, Unix socket": "raw-stream-unix",
    }
    found: dict[str, list[tuple[float, float, float]]] = {}
    with served(free_port()) as ours, served(free_port(), command=("-c", OTHER)) as theirs:
        for _ in range(ROUNDS):
            for name, kind in ways.items():
                found.setdefault(name, []).append(
                    _asked(kind, str(ours.socket) if "unix" in kind else ours.address)
                )
            found.setdefault("stream, by wsproto", []).append(_asked("raw-stream", theirs.address))
    figures = {
        name: {
            "answers_per_second": round(percentile([rate for rate, _, _ in rounds], 0.5)),
            "p50_us": round(1e6 * percentile([p50 for _, p50, _ in rounds], 0.5), 1),
            "p99_us": round(1e6 * percentile([p99 for _, _, p99 in rounds], 0.5), 1),
        }
        for name, rounds in found.items()
    }
    print(
        "| way | answers/s | p50 µs | p99 µs | answers/s to HTTP |\n| --- | --- | --- | --- | --- |"
    )
    for name, figure in figures.items():
        ratio = figure["answers_per_second"] / figures["HTTP"]["answers_per_second"]
        print(
            f"| {name} | {figure['answers_per_second']} | {figure['p50_us']} | {figure['p99_us']} | {ratio:.2f} |"
        )
    write("stream", {"figures": figures, "rounds": ROUNDS, "calls": CALLS, "wsproto": PIN})


def _asked(kind: str, address: str) -> tuple[float, float, float]:
    """Return answers per second, and the median and the 99th percentile of the seconds of a call."""
    command = [
        sys.executable,
        str(Path(__file__).with_name("caller.py")),
        kind,
        address,
        str(CALLS),
    ]
    seconds = json.loads(
        subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    )
    return len(seconds) / sum(seconds), percentile(seconds, 0.5), percentile(seconds, 0.99)


if __name__ == "__main__":
    main()
