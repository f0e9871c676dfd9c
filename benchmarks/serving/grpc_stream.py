"""gRPC `ModelStreamInfer` against `ModelInfer`, states a second on one connection.

    python -m benchmarks.serving.grpc_stream

Needs h2load: on Debian, apt-get install nghttp2-client. Service and load have a core each; a call
of a stream carries a thousand messages. Ratios are taken within a round.
"""

import statistics
import tempfile
from pathlib import Path

from benchmarks.environments import processor
from benchmarks.serving.measure import running
from benchmarks.serving.peers import UPRIGHT
from benchmarks.serving.protocols import Request

ROUNDS, SECONDS = 5, 1
MESSAGES = 1_000  # in a call of a stream
STATE = [0.01, -0.02, 0.05, 0.3]


def main() -> None:
    """Measure in turns, and print a table."""
    call = UPRIGHT.protocols["v2-grpc"].request([STATE])
    stream = Request(
        call.path.replace("ModelInfer", "ModelStreamInfer"), call.body * MESSAGES, call.headers
    )
    with (
        tempfile.TemporaryDirectory(prefix="upright-bench-") as folder,
        running(UPRIGHT, 8_600, Path(folder)) as server,
    ):
        pairs = [
            tuple(
                server.load(request, 1, SECONDS, is_grpc=True).requests_per_second * messages
                for request, messages in ((call, 1), (stream, MESSAGES))
            )
            for _ in range(ROUNDS)
        ]
    ratios = [streamed / called for called, streamed in pairs]
    called, streamed = (statistics.median(pair[index] for pair in pairs) for index in (0, 1))
    print(f"{processor()}, medians of {ROUNDS} interleaved rounds\n")
    print("| one connection | states a second |\n| --- | --- |")
    print(f"| ModelInfer, one after the other | {called:,.0f} |")
    print(
        f"| ModelStreamInfer, {MESSAGES:,} in a call | {streamed:,.0f}:"
        f" {statistics.median(ratios):.1f} times, {min(ratios):.1f} to {max(ratios):.1f} |"
    )


if __name__ == "__main__":
    main()
