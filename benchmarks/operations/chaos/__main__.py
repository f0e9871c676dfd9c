"""Three processes behind nginx, callers of five kinds, and each few seconds a fault.

    python -m benchmarks.operations.chaos                   ten minutes, each fault several times
    python -m benchmarks.operations.chaos --rounds 1        each fault once
    python -m benchmarks.operations.chaos --fault partition

A table says by fault what each kind of caller saw; below it, what the services' own metrics and
logs told of each fault. Faults that need what this machine does not allow (network namespaces,
cgroups, libfaketime) are left out, and named. The exit code is 1 where more went wrong than is
promised.
"""

import argparse
import json
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.calling.served import ROOT, circumstances
from benchmarks.operations.chaos import report
from benchmarks.operations.chaos.callers import KINDS, Event
from benchmarks.operations.chaos.faults import FAULTS, Fault, possible
from benchmarks.operations.chaos.report import Window
from benchmarks.operations.chaos.world import World, log_lines, world

RATES = {"http": 200, "stream": 200, "grpc": 100, "client-http": 50, "client-stream": 50}
CALM_SECONDS = 8.0  # between the end of one fault and the beginning of the next
START_SECONDS = 4.0  # in which the callers start
COUNTERS = re.compile(
    r"^(upright_(?:reloads|record_rows|requests|slow_requests)_total\{.*?\}) (\S+)$", re.MULTILINE
)
TROUBLE = ("refused", "dropped", 'status="5', "slow")  # in the names and labels of counters
STARTED = re.compile(r"^process_start_time_seconds (\S+)$", re.MULTILINE)


def main() -> None:
    """Run, and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=4, help="times that each fault comes")
    parser.add_argument("--fault", action="append", choices=FAULTS, help="only this one")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(1)
    )  # what was made is taken away all the same
    with world() as made, tempfile.TemporaryDirectory() as folder:
        faults = possible(made)
        chosen = [name for name in options.fault or faults if name in faults]
        for note in made.notes:
            print(f"left out: {note}")
        windows, happened = run(made, {name: faults[name] for name in chosen}, options, folder)
    sys.exit(_print(windows, happened))


def run(
    made: World, faults: dict[str, Fault], options: argparse.Namespace, folder: str
) -> tuple[list[Window], dict[str, list[Event]]]:
    """Let the faults come while the callers call; return both."""
    rng = random.Random(options.seed)  # noqa: S311 - which fault comes next, no secrets
    start = time.monotonic() + START_SECONDS
    # The callers are ended by the last fault, so this is only how long they might call.
    longest = 60.0 + options.rounds * len(faults) * 30.0
    callers = {kind: _caller(kind, made, start, longest, folder) for kind in RATES}
    windows = []
    try:
        time.sleep(START_SECONDS + CALM_SECONDS)
        for _ in range(options.rounds):
            for name in rng.sample(list(faults), len(faults)):
                windows.append(_let_happen(name, faults[name], made, rng))
                time.sleep(CALM_SECONDS)
    finally:
        for process in callers.values():
            process.terminate()
    happened: dict[str, list[Event]] = {}
    for kind, process in callers.items():
        process.wait(30)
        happened[kind] = json.loads(Path(folder, kind).read_text())
    return windows, happened


def _caller(
    kind: str, made: World, start: float, seconds: float, folder: str
) -> "subprocess.Popen[bytes]":
    port = made.grpc_port if kind == "grpc" else made.http_port
    rate = str(RATES[kind])
    arguments = (kind, f"127.0.0.1:{port}", rate, str(seconds), str(start), f"{folder}/{kind}")
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.operations.chaos.callers", *arguments], cwd=ROOT
    )


def _let_happen(name: str, fault: Fault, made: World, rng: random.Random) -> Window:
    sizes = [service.log.stat().st_size for service in made.services]
    before, starts = _counters(made), _starts(made)
    begin = time.monotonic()
    fault(made, rng)
    end = time.monotonic()
    time.sleep(1)
    changes = _counters(made) - before
    seen = [f"{name} +{times}" for name, times in changes.items()]
    started = sum(first != second for first, second in zip(starts, _starts(made), strict=True))
    if started:
        seen.append(f"process_start_time_seconds: {started} changed")
    lines = Counter(
        line
        for service, size in zip(made.services, sizes, strict=True)
        for line in log_lines(service, size)
    )
    seen += [f"log: {times} x {line}" for line, times in lines.most_common(3)]
    print(f"{name}: {end - begin:.1f} s", flush=True)
    return Window(name, begin, end, tuple(seen))


def _counters(made: World) -> Counter[str]:
    """Return what went wrong by all services' metrics."""
    counts: Counter[str] = Counter()  # whole numbers, written as floats
    for service in made.services:
        for name, value in COUNTERS.findall(service.get("/metrics")):
            if any(word in name for word in TROUBLE) and "/health" not in name:
                counts[name] += int(float(value))
    return counts


def _starts(made: World) -> list[str]:
    return [",".join(STARTED.findall(service.get("/metrics"))) for service in made.services]


def _print(windows: Sequence[Window], happened: dict[str, list[Event]]) -> int:
    print(f"\n{json.dumps(circumstances())}\n\n{report.HEADER}")
    print("\n".join(report.rows(windows, happened)))
    print("\nNot answered as they should be:")
    print("\n".join(report.reasons(happened)) or "none")
    print("\nWhat the metrics and the logs say:")
    for fault in dict.fromkeys(window.fault for window in windows):
        seen = Counter(line for window in windows if window.fault == fault for line in window.seen)
        print(f"- {fault}: {'; '.join(seen) or 'nothing'}")
    failings = report.failings(windows, happened)
    print("\nWorse than promised:", *(failings or ["nothing"]), sep="\n- ")
    return int(bool(failings))


if __name__ == "__main__":
    assert set(RATES) == set(KINDS)  # noqa: S101 - each kind has a rate
    main()
