"""The service against peers and limits, each in its own environment, by the protocols they share.

python -m benchmarks.serving --quick              limits, plain FastAPI and Upright: two minutes
python -m benchmarks.serving                      all peers: half an hour, once installed
python -m benchmarks.serving --peers triton ray   only these
python -m benchmarks.serving --soak               memory over a million requests

Server and load have a core each. Every round asks Upright and the peer the same, by the same
protocol, one after the other; ratios are taken within a round. Needs wrk, h2load and nginx.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import numpy as np

from benchmarks.environments import ROOT, processor
from benchmarks.serving.measure import Load, PeerError, Server, installed_mb, running
from benchmarks.serving.peers import LIMIT, NGINX, PEERS, UPRIGHT, Peer
from benchmarks.serving.protocols import Protocol, QValues, Request, States
from models import bundle
from service.inference.loading import load

ROUNDS = 5
CONNECTIONS = (1, 16, 64)
RESULTS = ROOT / "benchmarks" / "results"
BATCH = 1_000
SLOW_START = 3  # seconds; a server that takes longer is started once
Rounds = list[dict[str, dict[int, Load]]]  # by round, server and connections


def main() -> None:
    """Measure, print tables and write what was measured as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="limits, plain FastAPI and Upright only"
    )
    parser.add_argument(
        "--peers",
        nargs="+",
        choices=list(PEERS),
        default=list(PEERS),
        metavar="NAME",
        help=", ".join(PEERS),
    )
    parser.add_argument("--seconds", type=int, default=1, help="of load at a time")
    parser.add_argument(
        "--soak",
        action="store_true",
        help="a million requests to Upright: its memory before, between and after",
    )
    arguments = parser.parse_args()
    print(
        f"Python {platform.python_version()}, uvicorn {version('uvicorn')}, onnxruntime"
        f" {version('onnxruntime')}, {processor()}\n",
        flush=True,
    )
    with tempfile.TemporaryDirectory(prefix="upright-bench-") as folder:
        bench = Bench(Path(folder), arguments.seconds)
        if arguments.soak:
            bench.soak()
            return
        for name in ["fastapi"] if arguments.quick else arguments.peers:
            limits = [LIMIT, NGINX] if name == "fastapi" else []
            try:
                bench.compare(PEERS[name], limits)
            except PeerError as error:
                print(f"{PEERS[name].name}: not measured: {error}", flush=True)
        if arguments.quick or "fastapi" in arguments.peers:
            bench.batch()
    bench.write()


class Bench:
    """Servers side by side, and what was seen of them."""

    def __init__(self, folder: Path, seconds: int) -> None:
        self._folder, self._seconds = folder, seconds
        policy = load(bundle.read(ROOT / "models" / "cartpole-dqn"), "onnx")
        rng = np.random.default_rng(0)
        states = rng.uniform(-0.2, 0.2, (BATCH, 4)).astype(np.float32)
        self._states: States = states.tolist()
        self._expected: QValues = list(policy.decide(states).q_values)
        self._seen: dict[str, object] = {
            "when": time.strftime("%Y-%m-%d %H:%M"),
            "processor": processor(),
            "comparisons": [],
        }

    def compare(self, peer: Peer, limits: list[Peer]) -> None:
        """Ask Upright and a peer in turns by each protocol that they share; print the tables.

        `limits` are asked in the same rounds, for one state.
        """
        with ExitStack() as stack:
            servers = [
                stack.enter_context(self._running(each, 9100 + 10 * index))
                for index, each in enumerate((UPRIGHT, peer, *limits))
            ]
            for name, protocol in peer.protocols.items():
                for rows in protocol.rows:
                    both = dict(zip(servers[:2], (UPRIGHT, peer), strict=True))
                    if rows == 1:
                        both |= dict(zip(servers[2:], limits, strict=True))
                    rounds = self._rounds(name, rows, both)
                    _print(rounds, f"{protocol.title}, {rows} rows")
                    self._keep(peer.name, name, rows, rounds)
            memory = {server.name: server.memory_mb() for server in servers}
        starts = {server.name: [server.start_seconds] for server in servers}
        for server, each in zip(servers, (UPRIGHT, peer, *limits), strict=True):
            for _ in range(2 if server.start_seconds < SLOW_START else 0):
                with self._running(each, 9150) as again:
                    starts[server.name].append(again.start_seconds)
        _print_servers((UPRIGHT, peer, *limits), starts, memory)

    def _rounds(self, name: str, rows: int, servers: dict[Server, Peer]) -> Rounds:
        """Return what was seen of servers that were asked for some rows by a protocol."""
        asked = {
            server: self._checked(server, peer, peer.protocols[name], rows)
            for server, peer in servers.items()
        }
        is_grpc = UPRIGHT.protocols[name].is_grpc
        for server, request in asked.items():
            server.load(request, 16, 1, is_grpc=is_grpc)
        rounds: Rounds = []
        for number in range(ROUNDS):
            seen: dict[str, dict[int, Load]] = {server.name: {} for server in servers}
            for connections in CONNECTIONS:
                for server in list(asked)[:: 1 if number % 2 else -1]:
                    seen[server.name][connections] = server.load(
                        asked[server], connections, self._seconds, is_grpc=is_grpc
                    )
            rounds.append(seen)
        return rounds

    def _checked(self, server: Server, peer: Peer, protocol: Protocol, rows: int) -> Request:
        """Return a request for so many states, once its answer has been found right."""
        if peer.is_checked:
            answer = np.array(server.answer(protocol, self._states[:rows]))
            if answer.shape != (rows, 2) or np.abs(answer - self._expected[:rows]).max() > 1e-3:
                raise PeerError(
                    f"{peer.name}, {protocol.title}: answers {answer.tolist()[:2]} for {rows}"
                    f" states, expected {self._expected[:2]}"
                )
        return protocol.request(self._states[:rows])

    def _keep(self, peer: str, protocol: str, rows: int, rounds: Rounds) -> None:
        comparisons = self._seen["comparisons"]
        assert isinstance(comparisons, list)  # noqa: S101 - made above
        comparisons.append(
            {
                "peer": peer,
                "protocol": protocol,
                "rows": rows,
                "rounds": [
                    {name: {c: asdict(load) for c, load in by.items()} for name, by in one.items()}
                    for one in rounds
                ],
            }
        )

    def batch(self) -> None:
        """Measure what a state costs in a batch of a thousand."""
        request = UPRIGHT.protocols["plain"].request(self._states)
        with self._running(UPRIGHT, 9100) as server:
            loads = [server.load(request, 1, self._seconds) for _ in range(ROUNDS)]
        costs = [load.cpu_us / BATCH for load in loads]
        middle = statistics.median(costs)
        print(
            f"\n/act/batch with {BATCH:,} states: {middle:.2f} µs of processor time a state"
            f" ({min(costs):.2f} to {max(costs):.2f})"
        )
        self._seen["batch_us_a_state"] = costs

    def soak(self) -> None:
        """Post a million requests and print the memory on the way."""
        request = UPRIGHT.protocols["plain"].request(self._states[:1])
        with self._running(UPRIGHT, 9100) as server:
            done = 0
            for step in range(11):
                while done < step * 100_000:
                    done += server.load(request, 16, 2).requests
                # What is shared with other processes counts for more when one of them ends; what is
                # private does not.
                memory, private = server.memory_mb(), server.memory_mb(private=True)
                print(
                    f"after {done:,} requests: {memory:.1f} MB proportional, {private:.1f} MB"
                    " private",
                    flush=True,
                )

    def write(self) -> None:
        """Write what was seen as JSON."""
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / f"serving-{time.strftime('%Y%m%d-%H%M%S')}.json").write_text(
            json.dumps(self._seen, indent=1)
        )

    def _running(self, peer: Peer, port: int) -> AbstractContextManager[Server]:
        return running(peer, port, self._folder / f"{peer.environment}-{port}")


def _print(rounds: Rounds, title: str) -> None:
    """Print what was asked, a line for each server, and Upright's ratios to the others."""

    def middle(name: str, connections: int, what: str) -> float:
        return float(statistics.median(getattr(one[name][connections], what) for one in rounds))

    ours, *others = rounds[0]
    columns = "".join(f" c={connections} req/s | p50 / p99 ms |" for connections in CONNECTIONS)
    print(f"\n**{title}**\n\n| server |{columns} CPU µs a request |")
    print("|" + " --- |" * (2 + 2 * len(CONNECTIONS)))
    for name in (ours, *others):
        cells = [name]
        for connections in CONNECTIONS:
            cells.append(f"{middle(name, connections, 'requests_per_second'):,.0f}")
            cells.append(
                f"{middle(name, connections, 'p50_ms'):.3g} /"
                f" {middle(name, connections, 'p99_ms'):.3g}"
            )
        print("| " + " | ".join([*cells, f"{middle(name, 16, 'cpu_us'):.0f}"]) + " |")

    print("\n| requests/s, Upright to | connections | median | least | most |")
    print("| --- | --- | --- | --- | --- |")
    for name in others:
        for connections in CONNECTIONS:
            ratios = [
                seen[ours][connections].requests_per_second
                / seen[name][connections].requests_per_second
                for seen in rounds
            ]
            print(
                f"| {name} | {connections} | {statistics.median(ratios):.2f}"
                f" | {min(ratios):.2f} | {max(ratios):.2f} |",
                flush=True,
            )


def _print_servers(
    peers: Iterable[Peer], starts: dict[str, list[float]], memory: dict[str, float]
) -> None:
    print("\n| server | start s | memory MB | installed MB |\n| --- | --- | --- | --- |")
    for peer in peers:
        installed = f"{installed_mb(peer.environment):.0f}" if peer.environment else "–"
        print(
            f"| {peer.name} | {statistics.median(starts[peer.name]):.2f}"
            f" | {memory[peer.name]:.0f} | {installed} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
