"""What a shadow costs requests: pairs of services, without and with one, under the same load.

    python -m benchmarks.operations.shadow

Needs wrk and two cores. Service and load have a core each, so the shadow's thread has none of its
own: the worst case.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.calling.served import BUNDLE, RESULTS, Served, circumstances, free_port, served
from benchmarks.operations import bundles
from benchmarks.serving.measure import LOAD_CORE, SERVER_CORE, TICK
from benchmarks.serving.peers import HERE
from models import bundle

PAIRS = 7
SECONDS = 2
CONNECTIONS = (1, 16)
STATE = [0.01, -0.02, 0.05, 0.3]


@dataclass(frozen=True)
class Pair:
    """The same load on a service without and on one with a shadow."""

    connections: int
    requests_per_second: tuple[float, float]
    p99_ms: tuple[float, float]
    cpu_us: tuple[float, float]  # processor time of the service, with its threads, for a request


def main() -> None:
    """Measure pair after pair, and print the medians."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    pairs: list[Pair] = []
    with tempfile.TemporaryDirectory(prefix="upright-shadow-") as scratch:
        body = Path(scratch) / "body.json"
        body.write_text(json.dumps({"state": STATE}))
        other = bundles.relative(bundle.read(BUNDLE), Path(scratch) / "other", bundles.exchanged)
        with_shadow = ("-m", "service", "--shadow", str(other.folder))
        with served(free_port()) as without, served(free_port(), command=with_shadow) as followed:
            for service in (without, followed):
                os.sched_setaffinity(service.process.pid, {SERVER_CORE})
                for task in Path(f"/proc/{service.process.pid}/task").iterdir():
                    os.sched_setaffinity(int(task.name), {SERVER_CORE})
                _load(service, 16, body)
            for number in range(PAIRS):
                for connections in CONNECTIONS:
                    order = (without, followed) if number % 2 == 0 else (followed, without)
                    seen = {service.port: _load(service, connections, body) for service in order}
                    one, two = seen[without.port], seen[followed.port]
                    pairs.append(
                        Pair(connections, (one[0], two[0]), (one[1], two[1]), (one[2], two[2]))
                    )
                    print(pairs[-1], file=sys.stderr)
            with urllib.request.urlopen(f"{followed.address}/shadow") as answer:  # noqa: S310 - loopback
                report = json.loads(answer.read())
    print(json.dumps(circumstances()))
    print(table(pairs))
    print(report)
    RESULTS.mkdir(parents=True, exist_ok=True)
    figures = circumstances() | {"pairs": [asdict(pair) for pair in pairs], "report": report}
    (RESULTS / "operations-shadow.json").write_text(json.dumps(figures, indent=1) + "\n")


def table(pairs: list[Pair]) -> str:
    """Return the medians as the documents show them."""
    lines = [
        "| connections | requests/s without, with | ratio in a pair: median, range | p99"
        " without, with | processor time of a request |",
        "| --- | --- | --- | --- | --- |",
    ]
    for connections in CONNECTIONS:
        mine = [pair for pair in pairs if pair.connections == connections]
        ratios = [pair.requests_per_second[1] / pair.requests_per_second[0] for pair in mine]
        rates = ", ".join(
            f"{statistics.median(pair.requests_per_second[which] for pair in mine):,.0f}"
            for which in (0, 1)
        )
        slow = ", ".join(
            f"{statistics.median(pair.p99_ms[which] for pair in mine):.2f} ms" for which in (0, 1)
        )
        cpu = ", ".join(
            f"{statistics.median(pair.cpu_us[which] for pair in mine):.1f} µs" for which in (0, 1)
        )
        spread = f"{statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}"
        lines.append(f"| {connections} | {rates} | {spread} | {slow} | {cpu} |")
    return "\n".join(lines)


def _load(service: Served, connections: int, body: Path) -> tuple[float, float, float]:
    """Return the requests a second, the p99 in ms, and the processor time of a request in µs."""
    command = [
        "taskset",
        "-c",
        str(LOAD_CORE),
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{SECONDS}s",
        "-s",
        str(HERE / "load.lua"),
    ]
    environment = {"BODY": str(body), "PATH": os.environ["PATH"]}
    before = _cpu_seconds(service.process.pid)
    run = subprocess.run(
        [*command, f"{service.address}/act"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    seen = json.loads(run.stdout.strip().splitlines()[-1])
    if seen["failed"] or not seen["requests"]:
        raise RuntimeError(f"{seen['failed']} of {seen['requests']} requests failed")
    cpu_us = (_cpu_seconds(service.process.pid) - before) / seen["requests"] * 1e6
    return seen["requests"] / seen["seconds"], seen["p99_ms"], cpu_us


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


if __name__ == "__main__":
    main()
