"""gRPC `ModelInfer` against Triton's Python backend, and `ModelStreamInfer` against `ModelInfer`.

    python -m benchmarks.serving.grpc_calls

Needs h2load: on Debian, apt-get install nghttp2-client. Both servers get the same prepared message,
one core each, in turn; a stream gets a thousand of them in one call. Ratios are taken within a
round.
"""

import dataclasses
import re
import statistics
import struct
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from benchmarks.environments import ROOT, processor
from benchmarks.serving.measure import LOAD_CORE, PeerError, Server, running, tool
from benchmarks.serving.peers import PEERS, UPRIGHT, Command
from models import bundle
from service.grpc import inference_pb2 as pb

SERVICE = "inference.GRPCInferenceService"
ROUNDS = 5
CALLS = {1: 4_000, 16: 8_000, 64: 8_000}  # of a round, by connections
STREAMED, STREAMS = 1_000, 6  # messages in a call, and calls in a round
GRPC_OFFSET = 2  # of the port of gRPC from that of HTTP


def _upright(_: Path, port: int, __: Path) -> Command:
    flags = ["--port", str(port), "--grpc-port", str(port + GRPC_OFFSET), "--drain", "0"]
    return [sys.executable, "-m", "service", *flags], {"PYTHONPATH": str(ROOT)}


def message(model: str, state: list[float]) -> bytes:
    """Return a request with one state as gRPC frames it: not compressed, its length, its bytes."""
    request = pb.ModelInferRequest(model_name=model)
    request.inputs.add(name="state", datatype="FP32", shape=[1, 4])
    request.raw_input_contents.append(struct.pack("<4f", *state))
    body: bytes = request.SerializeToString()
    return b"\0" + struct.pack(">I", len(body)) + body


def calls_a_second(server: Server, method: str, body: Path, connections: int, calls: int) -> float:
    """Return how many calls a second a server answers. Raises `PeerError`."""
    command = [tool("taskset"), "-c", str(LOAD_CORE), tool("h2load")]
    command += ["-m1", "-c", str(connections), "-n", str(calls), "-d", str(body)]
    command += ["-H", "content-type: application/grpc", "-H", "te: trailers"]
    url = f"http://127.0.0.1:{server.port + GRPC_OFFSET}/{SERVICE}/{method}"
    shown = subprocess.run([*command, url], capture_output=True, text=True, check=True).stdout
    rate, succeeded = re.search(r"([\d.]+) req/s", shown), re.search(r"(\d+) succeeded", shown)
    if rate is None or succeeded is None or int(succeeded[1]) != calls:
        raise PeerError(f"{server.peer.name}: not every call succeeded:\n{shown}")
    return float(rate[1])


def main() -> None:
    """Measure, and print two tables."""
    golden = bundle.read(ROOT / "models" / "cartpole-dqn").manifest.golden_states[0]
    state, expected = list(golden.state), list(golden.q_values)
    with tempfile.TemporaryDirectory(prefix="upright-bench-") as folder, ExitStack() as stack:
        servers, bodies = {}, {}
        upright = dataclasses.replace(UPRIGHT, command=_upright)
        for index, (name, peer, model) in enumerate(
            [("Upright", upright, "cartpole-dqn"), ("Triton", PEERS["triton"], "act")]
        ):
            scratch = Path(folder, name)
            servers[name] = stack.enter_context(
                running(peer, 8_600 + 10 * index, scratch, state, expected)
            )
            bodies[name] = scratch / "message"
            bodies[name].write_bytes(message(model, state))
        streamed = Path(folder, "messages")
        streamed.write_bytes(message("cartpole-dqn", state) * STREAMED)

        print(f"{processor()}, medians of {ROUNDS} interleaved rounds\n")
        print("| connections | Upright, calls a second | Triton | ratio | least | most |")
        print("| --- | --- | --- | --- | --- | --- |")
        for connections, calls in CALLS.items():
            rounds = [
                {
                    name: calls_a_second(server, "ModelInfer", bodies[name], connections, calls)
                    for name, server in servers.items()
                }
                for _ in range(ROUNDS)
            ]
            ratios = [each["Upright"] / each["Triton"] for each in rounds]
            medians = [statistics.median(each[name] for each in rounds) for name in servers]
            print(
                f"| {connections} | {medians[0]:,.0f} | {medians[1]:,.0f}"
                f" | {statistics.median(ratios):.2f} | {min(ratios):.2f} | {max(ratios):.2f} |"
            )

        pairs = [
            (
                STREAMED
                * calls_a_second(servers["Upright"], "ModelStreamInfer", streamed, 1, STREAMS),
                calls_a_second(servers["Upright"], "ModelInfer", bodies["Upright"], 1, CALLS[1]),
            )
            for _ in range(ROUNDS)
        ]
        stream, call = (statistics.median(pair[index] for pair in pairs) for index in (0, 1))
        ratio = statistics.median(one / other for one, other in pairs)
        print("\n| one connection | states a second |\n| --- | --- |")
        print(f"| ModelInfer, one after the other | {call:,.0f} |")
        print(f"| ModelStreamInfer, {STREAMED:,} in a call | {stream:,.0f}, {ratio:.1f} times |")


if __name__ == "__main__":
    main()
