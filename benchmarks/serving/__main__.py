"""The service against the limit of its HTTP server and against peers, each in its own environment.

python -m benchmarks.serving --quick              limit, plain FastAPI and Upright: two minutes
python -m benchmarks.serving                      all peers: a quarter of an hour, once installed
python -m benchmarks.serving --peers triton ray   only these
python -m benchmarks.serving --soak               memory over a million requests

Server and load have a core each. Every round measures the limit, Upright and the peer one after the
other; ratios are taken within a round.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from benchmarks.environments import ROOT, processor
from benchmarks.serving.measure import Load, PeerError, Server, installed_mb, running
from benchmarks.serving.peers import LIMIT, PEERS, UPRIGHT, UPRIGHT_INFERENCE, Peer
from models import bundle

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
        "--quick", action="store_true", help="limit, plain FastAPI and Upright only"
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
    committed = bundle.read(ROOT / "models" / "cartpole-dqn")
    golden = committed.manifest.golden_states[0]
    with tempfile.TemporaryDirectory(prefix="upright-bench-") as folder:
        bench = Bench(Path(folder), list(golden.state), list(golden.q_values), arguments.seconds)
        if arguments.soak:
            bench.soak()
            return
        for name in ["fastapi"] if arguments.quick else arguments.peers:
            try:
                bench.compare(PEERS[name])
            except PeerError as error:
                print(f"{PEERS[name].name}: not measured: {error}", flush=True)
        if arguments.quick or "fastapi" in arguments.peers:
            bench.batch()
    bench.write()


class Bench:
    """Servers side by side, and what was seen of them."""

    def __init__(
        self, folder: Path, state: list[float], expected: list[float], seconds: int
    ) -> None:
        self._folder, self._state, self._expected, self._seconds = folder, state, expected, seconds
        self._seen: dict[str, object] = {
            "when": time.strftime("%Y-%m-%d %H:%M"),
            "processor": processor(),
            "pairs": {},
        }

    def compare(self, peer: Peer) -> None:
        """Measure the limit, Upright and a peer in interleaved rounds; print a line for each.

        A peer of the Open Inference Protocol is compared with Upright by the same protocol.
        """
        ours = UPRIGHT_INFERENCE if peer.path.startswith("/v2/") else UPRIGHT
        with ExitStack() as stack:
            servers = [
                stack.enter_context(self._running(one, 9100 + 10 * index))
                for index, one in enumerate((LIMIT, ours, peer))
            ]
            for server in servers:
                server.load(16, 1)
            rounds: Rounds = []
            for _ in range(ROUNDS):
                seen: dict[str, dict[int, Load]] = {server.peer.name: {} for server in servers}
                for connections in CONNECTIONS:
                    for server in servers:
                        seen[server.peer.name][connections] = server.load(
                            connections, self._seconds
                        )
                rounds.append(seen)
            memory = {server.peer.name: server.memory_mb() for server in servers}
        starts = {server.peer.name: [server.start_seconds] for server in servers}
        for one in servers:
            for _ in range(2 if one.start_seconds < SLOW_START else 0):
                with self._running(one.peer, 9150) as again:
                    starts[one.peer.name].append(again.start_seconds)
        _print(
            rounds,
            memory,
            {name: statistics.median(values) for name, values in starts.items()},
            [server.peer for server in servers],
        )
        pairs = self._seen["pairs"]
        assert isinstance(pairs, dict)  # noqa: S101 - made above
        pairs[peer.name] = {
            "rounds": [
                {name: {c: asdict(load) for c, load in by.items()} for name, by in one.items()}
                for one in rounds
            ],
            "memory_mb": memory,
            "start_seconds": starts,
        }

    def batch(self) -> None:
        """Measure what a state costs in a batch of a thousand."""
        body = self._folder / "batch.json"
        states = [[value + row * 1e-5 for value in self._state] for row in range(BATCH)]
        body.write_text(json.dumps({"states": states}))
        with self._running(UPRIGHT, 9100) as server:
            loads = [server.load(1, self._seconds, body, "/act/batch") for _ in range(ROUNDS)]
        costs = [load.cpu_us / BATCH for load in loads]
        middle = statistics.median(costs)
        print(
            f"\n/act/batch with {BATCH:,} states: {middle:.2f} µs of processor time a state"
            f" ({min(costs):.2f} to {max(costs):.2f})"
        )
        self._seen["batch_us_a_state"] = costs

    def soak(self) -> None:
        """Post a million requests and print the memory on the way."""
        with self._running(UPRIGHT, 9100) as server:
            done = 0
            for step in range(11):
                while done < step * 100_000:
                    done += server.load(16, 2).requests
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
        return running(
            peer, port, self._folder / f"{peer.environment}-{port}", self._state, self._expected
        )


def _print(
    rounds: Rounds, memory: dict[str, float], starts: dict[str, float], peers: list[Peer]
) -> None:
    def middle(name: str, connections: int, what: str) -> float:
        return float(statistics.median(getattr(one[name][connections], what) for one in rounds))

    print(
        "\n| server |"
        + "".join(f" c={connections} req/s | p50 / p99 ms |" for connections in CONNECTIONS),
        end="",
    )
    print(" CPU µs a request | start s | memory MB | installed MB |")
    print("|" + " --- |" * 11)
    for peer in peers:
        cells = [peer.name]
        for connections in CONNECTIONS:
            cells.append(f"{middle(peer.name, connections, 'requests_per_second'):,.0f}")
            cells.append(
                f"{middle(peer.name, connections, 'p50_ms'):.3g} /"
                f" {middle(peer.name, connections, 'p99_ms'):.3g}"
            )
        cells += [
            f"{middle(peer.name, 16, 'cpu_us'):.0f}",
            f"{starts[peer.name]:.2f}",
            f"{memory[peer.name]:.0f}",
            f"{installed_mb(peer.environment):.0f}",
        ]
        print("| " + " | ".join(cells) + " |")
    print("\n| ratio within a round | median | least | most |\n| --- | --- | --- | --- |")
    limit, ours, peer_name = (one.name for one in peers)
    for text, one, other, connections, what in (
        (
            "requests/s, Upright to the limit, 16 connections",
            ours,
            limit,
            16,
            "requests_per_second",
        ),
        (
            f"requests/s, Upright to {peer_name}, 16 connections",
            ours,
            peer_name,
            16,
            "requests_per_second",
        ),
        ("p50, Upright to the limit, 1 connection", ours, limit, 1, "p50_ms"),
        ("p99, Upright to the limit, 64 connections", ours, limit, 64, "p99_ms"),
        ("CPU, Upright to the limit, 16 connections", ours, limit, 16, "cpu_us"),
    ):
        ratios = [
            getattr(seen[one][connections], what) / getattr(seen[other][connections], what)
            for seen in rounds
        ]
        print(
            f"| {text} | {statistics.median(ratios):.2f} | {min(ratios):.2f} | {max(ratios):.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
