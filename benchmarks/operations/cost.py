"""What a feature costs each request: services with and without it, loaded one after the other.

    python -m benchmarks.operations.cost
    python -m benchmarks.operations.cost --pairs metrics tracing

Both servers of a pair run at the same time on one core, wrk on the other; only one of them is asked
at a time. Ratios are taken within a round.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version

from benchmarks.calling.served import ROOT, free_port, ready
from benchmarks.serving.measure import LOAD_CORE, SERVER_CORE, Load, Server
from benchmarks.serving.protocols import Request
from models import bundle

ROUNDS = 9
CONNECTIONS = 16
RESULTS = ROOT / "benchmarks" / "results"
PLAIN = ("-m", "service")


@dataclass(frozen=True)
class Pair:
    """The service without a feature and with it.

    Holds commands for Python, and what the feature needs in the environment.
    """

    without: tuple[str, ...] = PLAIN
    with_it: tuple[str, ...] = PLAIN
    variables: dict[str, str] = field(default_factory=dict)


TRACING = (*PLAIN, "--tracing")
PAIRS = {
    "metrics": Pair(without=("-m", "benchmarks.operations.without_metrics")),
    "log-requests": Pair(with_it=(*PLAIN, "--log-requests", "--log-format", "json")),
    "tracing": Pair(with_it=TRACING),
    "tracing-1%": Pair(
        with_it=TRACING,
        variables={"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.01"},
    ),
    "tracing-0%": Pair(with_it=TRACING, variables={"OTEL_TRACES_SAMPLER": "always_off"}),
}


def main() -> None:
    """Measure pair by pair, print a table and write what was measured as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--pairs",
        nargs="+",
        choices=list(PAIRS),
        default=list(PAIRS),
        metavar="NAME",
        help=", ".join(PAIRS),
    )
    parser.add_argument("--seconds", type=int, default=1, help="of load at a time")
    arguments = parser.parse_args()
    state = bundle.read(ROOT / "models" / "cartpole-dqn").manifest.golden_states[0].state
    print(
        f"Python {platform.python_version()}, uvicorn {version('uvicorn')}; {ROUNDS} rounds,"
        f" {CONNECTIONS} connections\n"
    )
    print(
        "| with | requests/s | of those without | CPU µs a request | of those without | p99 µs"
        " | without |\n" + "| --- " * 7 + "|",
        flush=True,
    )
    seen = {}
    with collector() as address:
        act = Request("/act", json.dumps({"state": state}).encode())
        for name in arguments.pairs:
            pair = PAIRS[name]
            with ExitStack() as stack:
                without = stack.enter_context(running(pair.without, {}))
                with_it = stack.enter_context(
                    running(pair.with_it, pair.variables | {"OTEL_EXPORTER_OTLP_ENDPOINT": address})
                )
                for server in (without, with_it):
                    server.load(act, CONNECTIONS, 1)
                rounds = [
                    (
                        without.load(act, CONNECTIONS, arguments.seconds),
                        with_it.load(act, CONNECTIONS, arguments.seconds),
                    )
                    for _ in range(ROUNDS)
                ]
            print(_row(name, rounds), flush=True)
            seen[name] = [[asdict(load) for load in one] for one in rounds]
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"cost-{time.strftime('%Y%m%d-%H%M%S')}.json").write_text(json.dumps(seen, indent=1))


def _row(name: str, rounds: list[tuple[Load, Load]]) -> str:
    def ratio(value: Callable[[Load], float]) -> str:
        found = [value(with_it) / value(without) for without, with_it in rounds]
        return f"{statistics.median(found):.3f} ({min(found):.2f} … {max(found):.2f})"

    def middle(place: int, value: Callable[[Load], float]) -> float:
        return statistics.median(value(one[place]) for one in rounds)

    return (
        f"| {name} | {middle(1, lambda load: load.requests_per_second):,.0f} |"
        f" {ratio(lambda load: load.requests_per_second)} "
        f"| {middle(1, lambda load: load.cpu_us):.1f} | {ratio(lambda load: load.cpu_us)} "
        f"| {middle(1, lambda load: load.p99_ms) * 1e3:,.0f} |"
        f" {middle(0, lambda load: load.p99_ms) * 1e3:,.0f} |"
    )


@contextmanager
def running(command: tuple[str, ...], variables: dict[str, str]) -> Iterator[Server]:
    """Serve the committed bundle on the servers' core until the end of the block."""
    port = free_port()
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("UPRIGHT_", "OTEL_"))
    } | variables
    arguments = ["taskset", "-c", str(SERVER_CORE), sys.executable, *command, "--port", str(port)]
    with subprocess.Popen(
        arguments,
        cwd=ROOT,
        env=environment,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            while not ready(port):
                if process.poll() is not None:
                    raise RuntimeError(
                        f"{' '.join(command)} did not start: exit code {process.returncode}"
                    )
                time.sleep(0.02)
            yield Server("Upright", process, port)
        finally:
            process.terminate()
            process.wait()


class _Sink(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        """Take spans."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def collector() -> Iterator[str]:
    """Take spans and forget them, on the load's core; gives the address."""
    os.sched_setaffinity(0, {LOAD_CORE})
    with ThreadingHTTPServer(("127.0.0.1", 0), _Sink) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


if __name__ == "__main__":
    main()
