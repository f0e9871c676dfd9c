"""How many control loops a core holds, and what a number of loops needs.

    python -m benchmarks.operations.capacity --loops 2000 --hertz 50

One process of the service has a core for itself, and the loops have another. First it is flooded,
which gives the states a second that the core can answer; then loops that hold 10 to 95 % of that
are run, and the p99 of each is held to the estimate of a queue. The last rate up to which the p99
is within a quarter of the period, and no step was skipped, is what a core holds.
"""

import argparse
import os
import statistics
import sys
import time
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from benchmarks.calling.served import Served, free_port, percentile, served
from benchmarks.operations.capacity.loops import Transport, run_loops
from benchmarks.operations.capacity.plan import (
    distance_km,
    dollars_a_month,
    processes,
    wait_quantile,
)

SHARES = (0.1, 0.25, 0.5, 0.7, 0.8, 0.9, 0.95)
FLOOD_PER_SECOND = 60_000
P99_SHARE = 0.25  # of a loop's period, that the p99 may take
LOOP_CORE, SERVER_CORE = 0, 1
STARTS = 5


@dataclass(frozen=True)
class Point:
    """What the loops saw at one rate."""

    loops: int
    answers_per_second: float
    busy: float  # share of its core that the service used
    skipped: int
    wrong: int
    p50: float
    p99: float
    p999: float
    late_p99: float  # of the loops' own program


def measure(
    service: Served, loops: int, hertz: float, seconds: float, transport: Transport
) -> Point:
    """Return what a number of loops sees."""
    before = _processor_seconds(service.process.pid)
    seen = run_loops(service.port, loops, hertz, seconds, transport)
    used = _processor_seconds(service.process.pid) - before
    return Point(
        loops,
        len(seen.seconds) / seen.span,
        used / seen.span,
        seen.skipped,
        seen.wrong,
        percentile(seen.seconds, 0.5),
        percentile(seen.seconds, 0.99),
        percentile(seen.seconds, 0.999),
        percentile(seen.late, 0.99),
    )


def curve(hertz: float, seconds: float, transport: Transport) -> tuple[float, list[Point]]:
    """Return the states a second that a core answers, and the points below it."""
    with served(free_port()) as service:
        for task in Path(f"/proc/{service.process.pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), {SERVER_CORE})
        run_loops(service.port, 20, hertz, 1.0, transport)  # what is first is slow
        flood = measure(service, int(FLOOD_PER_SECOND / hertz), hertz, seconds, transport)
        points = [
            measure(
                service,
                max(1, round(share * flood.answers_per_second / hertz)),
                hertz,
                seconds,
                transport,
            )
            for share in SHARES
        ]
    return flood.answers_per_second, points


def show(transport: Transport, capacity: float, points: list[Point]) -> None:
    """Print the curve beside its estimate."""
    base = points[0].p50
    print(f"\n{transport}: {capacity:,.0f} states/s when flooded\n")
    print(
        "| loops | states/s | core used | skipped | p50 ms | p99 ms | p99.9 ms | p99 estimated, ms"
        " | measured / estimated | loops' own p99 delay, ms |"
    )
    print("| --- " * 10 + "|")
    for point in points:
        estimate = base + wait_quantile(1 / capacity, point.answers_per_second / capacity, 0.99)
        print(
            f"| {point.loops} | {point.answers_per_second:,.0f} | {point.busy:.0%} |"
            f" {point.skipped} | {1e3 * point.p50:.2f} | {1e3 * point.p99:.2f} |"
            f" {1e3 * point.p999:.2f} | {1e3 * estimate:.2f} | {point.p99 / estimate:.1f} |"
            f" {1e3 * point.late_p99:.2f} |"
        )
    wrong = sum(point.wrong for point in points)
    if wrong:
        sys.exit(f"{wrong} answers were no actions")


def held(points: list[Point], hertz: float) -> Point:
    """Return the last point that a loop can live with. Ends the program where there is none."""

    def is_good(point: Point) -> bool:
        return not point.skipped and point.p99 <= P99_SHARE / hertz

    good = list(takewhile(is_good, points))
    if not good:
        sys.exit(f"no rate has a p99 within {P99_SHARE:.0%} of a period of {1e3 / hertz:g} ms")
    return good[-1]


def start_seconds() -> float:
    """Return the median time from the start of a process to its readiness."""
    times = []
    for _ in range(STARTS):
        begun = time.perf_counter()
        with served(free_port()):
            times.append(time.perf_counter() - begun)
    return statistics.median(times)


def main() -> None:
    """Measure both transports, and print what the loops that are asked about need."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--loops", type=int, default=2_000, help="to be planned for")
    parser.add_argument("--hertz", type=float, default=50.0, help="steps a second of each")
    parser.add_argument("--deadline", type=float, help="seconds; by default, half a period")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each rate")
    options = parser.parse_args()
    deadline = 0.5 / options.hertz if options.deadline is None else options.deadline

    os.sched_setaffinity(0, {LOOP_CORE})
    plans = []
    for transport in ("http", "stream"):
        capacity, points = curve(options.hertz, options.seconds, transport)
        show(transport, capacity, points)
        best = held(points, options.hertz)
        count = processes(options.loops * options.hertz, best.answers_per_second)
        plans.append((transport, best, count))
    os.sched_setaffinity(0, {LOOP_CORE, SERVER_CORE})

    print(f"\n{options.loops} loops at {options.hertz:g} Hz, deadline {1e3 * deadline:g} ms\n")
    print(
        "| transport | loops a core | p99 ms | processes, one of which may be lost | at most so far"
        " away, km | dollars a month |"
    )
    print("| --- " * 6 + "|")
    for transport, best, count in plans:
        print(
            f"| {transport} | {best.loops} | {1e3 * best.p99:.2f} | {count} |"
            f" {distance_km(deadline, best.p99):,.0f} | {dollars_a_month(count):,.0f} |"
        )
    print(f"\nfrom the start of a process to its readiness: {start_seconds():.2f} s")


def _processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
