"""Many control loops at once: how many of them one service keeps up with.

    python -m benchmarks.calling.many_loops

Each loop is a stream connection that sends 50 states a second. A loop whose last answer has not
come when its next step is due skips the step, as a real one would fall back: that is a miss.
"""

import argparse
import asyncio
import json
import sys
import time
from dataclasses import dataclass, field

import uvloop

from benchmarks.calling.served import free_port, percentile, served, write

HERTZ = 50
SECONDS = 10.0
SLICES = 20  # of a period: the loops are not in step
COUNTS = (50, 100, 200, 400, 700, 1_000)
HANDSHAKE = (
    b"GET /act/stream HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


@dataclass
class Figures:
    """What all loops saw."""

    sent: int = 0
    missed: int = 0
    closed: int = 0
    seconds: list[float] = field(default_factory=list)


class Loop(asyncio.Protocol):
    """One control loop's connection."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures
        self._transport: asyncio.Transport | None = None
        self._asked_at: float | None = None
        self._open = False
        self._buffer = b""
        body = b'{"state":[0.01,-0.02,0.05,0.3],"seq":1}'
        self._frame = bytes((0x81, 0x80 | len(body))) + bytes(4) + body  # masked with zeros

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the stream."""
        self._transport = transport  # type: ignore[assignment] # connections are streams
        transport.write(HANDSHAKE)  # type: ignore[attr-defined] # as above

    def data_received(self, data: bytes) -> None:
        """Note when an answer is whole."""
        if not self._open:
            self._open = True
            return
        self._buffer += data
        if self._buffer.endswith(b"}") and self._asked_at is not None:
            self._figures.seconds.append(time.perf_counter() - self._asked_at)
            self._asked_at, self._buffer = None, b""

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Note a loop that the service left alone."""
        self._open = False
        self._figures.closed += 1

    def step(self) -> None:
        """Send a state, if the last one was answered."""
        if self._asked_at is not None or not self._open or self._transport is None:
            self._figures.missed += 1
            return
        self._figures.sent += 1
        self._asked_at = time.perf_counter()
        self._transport.write(self._frame)

    def end(self) -> None:
        """Leave."""
        if self._transport is not None:
            self._transport.abort()


async def run_loops(port: int, count: int) -> dict[str, float]:
    """Return what `count` loops see in `SECONDS`."""
    figures = Figures()
    running = asyncio.get_running_loop()
    loops = [
        (await running.create_connection(lambda: Loop(figures), "127.0.0.1", port))[1]
        for _ in range(count)
    ]
    await asyncio.sleep(0.5)
    figures.closed = 0
    start = time.perf_counter()
    for number in range(int(SECONDS * HERTZ * SLICES)):
        await asyncio.sleep(max(0.0, start + number / (HERTZ * SLICES) - time.perf_counter()))
        for loop in loops[number % SLICES :: SLICES]:
            loop.step()
    seconds = time.perf_counter() - start
    await asyncio.sleep(0.5)
    closed = figures.closed
    for loop in loops:
        loop.end()
    steps = figures.sent + figures.missed
    return {
        "connections": count,
        "asked_per_second": round(count * HERTZ),
        "answers_per_second": round(len(figures.seconds) / seconds),
        "miss_rate": round(figures.missed / steps, 4),
        "p50_ms": round(1e3 * percentile(figures.seconds, 0.5), 2),
        "p99_ms": round(1e3 * percentile(figures.seconds, 0.99), 2),
        "closed": closed,
        "seconds": round(seconds, 1),
    }


def main() -> None:
    """Run more and more loops against one service, and print what they saw."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    results = []
    for count in COUNTS:
        with served(free_port()) as service:
            results.append(uvloop.run(run_loops(service.port, count)))
        print(json.dumps(results[-1]))
        sys.stdout.flush()
    write("many-loops", {"results": results})


if __name__ == "__main__":
    main()
