"""Connections that age out, and processes that restart, under load: how many requests fail.

python -m benchmarks.operations.leaving

By `age` each of two processes ends its connections after two seconds (`--max-connection-age`), and
callers call the first one, by gRPC both. By `restart` the two are restarted in turn by SIGTERM:
HTTP and streams come through nginx with deploy/nginx/upright.conf, gRPC goes to both. Callers are
in a process of their own. HTTP repeats nothing; gRPC has no retry policy of its own; streams are
control loops by upright_client, for which a step that the fallback took counts as failed.
"""

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from time import monotonic

import uvloop

from benchmarks.calling.served import BUNDLE, ROOT, free_port, percentile
from benchmarks.environments import processor
from benchmarks.operations.chaos.callers import open_loop
from benchmarks.operations.load import Load
from benchmarks.operations.restart import CONFIG, Process, nginx
from models import bundle
from service.inference.loading import load

PROTOCOLS, WAYS = ("http", "grpc", "stream"), ("age", "restart")
HERTZ = 50  # of each control loop over a stream
DEADLINE_SECONDS = 0.25  # of a step: two cores carry load, nginx, two processes and their starts
PATIENCE_SECONDS = 5.0  # of gRPC
AGE_SECONDS = 2
RESTARTS = 3  # of each process
STATE = (0.01, -0.02, 0.03, 0.04)
ROUND_ROBIN = '{"loadBalancingConfig": [{"round_robin": {}}]}'


@dataclass
class Seen:
    """What became of the requests."""

    seconds: list[float] = field(default_factory=list)
    failures: dict[str, int] = field(default_factory=dict)
    connections: int = 0  # that were opened; not known of gRPC

    def row(self) -> str:
        """Return the cells of a table: requests, failed, connections, p50, p99, the longest."""
        failed, times = sum(self.failures.values()), [1e3 * each for each in self.seconds] or [0.0]
        figures = (percentile(times, 0.5), percentile(times, 0.99), max(times))
        return (
            f"{len(self.seconds) + failed:,} | {failed} | {self.connections or '–'} | "
            + " | ".join(f"{figure:.1f}" for figure in figures)
        )


# The callers, in a process of their own.


async def by_http(ports: list[int], rate: float, seconds: float) -> Seen:
    """Ask by `POST /act`."""
    found = await Load(ports[0]).run(rate, seconds)
    return Seen(found.seconds, dict(found.failures), found.connections)


async def by_grpc(ports: list[int], rate: float, seconds: float) -> Seen:
    """Ask by `ModelInfer`, at all ports in turn."""
    import grpc.aio

    from service.grpc.inference_pb2 import ModelInferRequest
    from service.grpc.inference_pb2_grpc import GRPCInferenceServiceStub

    request = ModelInferRequest(model_name="cartpole-dqn")
    request.inputs.add(name="state", datatype="FP32", shape=[1, 4])
    request.inputs[0].contents.fp32_contents.extend(STATE)
    target = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)
    options = [("grpc.service_config", ROUND_ROBIN)]
    action, times, failures = _right_action(), list[float](), Counter[str]()
    async with grpc.aio.insecure_channel(target, options=options) as channel:
        stub = GRPCInferenceServiceStub(channel)  # type: ignore[no-untyped-call] # made by `make proto`

        async def ask(_number: int, due: float) -> None:
            try:
                answer = await stub.ModelInfer(request, timeout=PATIENCE_SECONDS)
            except grpc.aio.AioRpcError as error:
                failures[f"{error.code().name}: {error.details()}"] += 1
                return
            if answer.raw_output_contents[1][0] != action:
                failures["wrong"] += 1
            else:
                times.append(monotonic() - due)

        await ask(0, monotonic())  # the channel has connected
        times.clear()
        await open_loop(rate, monotonic(), seconds, ask)
    return Seen(times, dict(failures))


async def by_stream(ports: list[int], rate: float, seconds: float) -> Seen:
    """Ask by as many control loops as make the rate."""
    from upright_client.aio import AsyncPolicyClient

    action, times, failures = _right_action(), list[float](), Counter[str]()
    connections = 0

    async def loop(start: float) -> None:
        nonlocal connections
        async with AsyncPolicyClient(
            f"http://127.0.0.1:{ports[0]}",
            transport="stream",
            deadline=DEADLINE_SECONDS,
            fallback=1 - action,
        ) as client:
            for step in range(int(seconds * HERTZ)):
                due = start + step / HERTZ
                if (wait := due - monotonic()) > 0:
                    await asyncio.sleep(wait)
                decision = await client.act(STATE)
                if decision.source != "policy":
                    failures[f"fallback: {decision.reason}"] += 1
                elif decision.action != action:
                    failures["wrong"] += 1
                else:
                    times.append(monotonic() - due)
            connections += 1 + client.counters().reconnects

    start, count = monotonic() + 0.5, int(rate / HERTZ)
    await asyncio.gather(*(loop(start + number / rate) for number in range(count)))
    return Seen(times, dict(failures), connections)


def _right_action() -> int:
    return load(bundle.read(BUNDLE), "onnx").decide_one(STATE)[0]


# What they call.


@contextlib.contextmanager
def _called(way: str, protocol: str) -> Iterator[tuple[list[int], list[Process]]]:
    """Start two processes; give the ports that callers call, and the processes."""
    grpc_ports = free_port(), free_port()
    processes = []
    for grpc_port in grpc_ports:
        flags = ["--grpc-port", str(grpc_port)]
        if way == "age":
            flags += ["--max-connection-age", str(AGE_SECONDS)]
        processes.append(Process(free_port(), *flags))
    with contextlib.ExitStack() as stack:
        for process in processes:
            stack.callback(process.kill)
            process.start()
        ports = [process.port for process in processes]
        if protocol == "grpc":
            yield list(grpc_ports), processes
        elif way == "age":
            yield ports, processes
        else:
            yield [stack.enter_context(nginx((ports[0], ports[1]), CONFIG.read_text()))], processes


def _measure(way: str, protocol: str, rate: float, seconds: float) -> Seen:
    with _called(way, protocol) as (ports, processes):
        words = [protocol, str(rate), str(seconds), *map(str, ports)]
        callers = subprocess.Popen(
            [sys.executable, "-m", __spec__.name, "--callers", *words],
            cwd=ROOT,
            stdout=subprocess.PIPE,
        )
        if way == "restart":
            pause = seconds / (2 * RESTARTS + 1)
            for process in [*processes] * RESTARTS:
                time.sleep(pause / 2)
                code = process.stop()
                if code:
                    print(f"  exit code {code} after SIGTERM")
                process.start()
                time.sleep(pause / 2)
        output, _ = callers.communicate(timeout=10 * seconds)
    return Seen(**json.loads(output))


def main() -> None:
    """Measure, and print a table; or be the callers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rate", type=float, default=5_000, help="requests a second")
    parser.add_argument("--grpc-rate", type=float, default=1_500, help="the same of gRPC")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--protocols", nargs="+", choices=PROTOCOLS, default=PROTOCOLS)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--callers", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.callers:
        protocol, rate, seconds, *ports = options.callers
        callers = {"http": by_http, "grpc": by_grpc, "stream": by_stream}[protocol]
        seen = uvloop.run(callers([int(port) for port in ports], float(rate), float(seconds)))
        print(json.dumps(asdict(seen)))
        return

    print(f"{processor()}, {options.seconds:.0f} s each\n")
    print(
        "| way | protocol | a second | requests | failed | connections | p50 | p99 | longest ms |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    failed = 0
    for way in options.ways:
        for protocol in options.protocols:
            rate = options.grpc_rate if protocol == "grpc" else options.rate
            seen = _measure(way, protocol, rate, options.seconds)
            failed += sum(seen.failures.values())
            print(f"| {way} | {protocol} | {rate:,.0f} | {seen.row()} |", flush=True)
            for failure, count in Counter(seen.failures).most_common(5):
                print(f"  {count} × {failure}")
    sys.exit(int(failed > 0))


if __name__ == "__main__":
    main()
