"""Thousands of reloads of good and bad bundles, in random order, under load.

Every answer is held to the bundle that it names.

    python -m benchmarks.operations.reload

Wants a machine with two cores that does nothing else. Linux only: reads /proc.
"""

import argparse
import dataclasses
import http.client
import json
import random
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.calling.served import (
    BUNDLE,
    RESULTS,
    ROOT,
    circumstances,
    free_port,
    percentile,
    served,
)
from benchmarks.operations import bundles
from benchmarks.operations.loader import Seen
from models import bundle
from service.inference.loading import load

RELOADS = 10_000
SETTLED = 500  # reloads after which memory must not grow any more
WINDOW = 1_000  # reloads at the beginning and at the end whose latencies are compared
LOADERS = 2
WARM_UP_SECONDS = 1.0  # in which the callers begin
STATES = 64
GROWTH_MB = 5.0  # by which memory may grow after the settling
SLOWER = 1.5  # by which factor the last window may be slower than the first
WORDS = {
    "A": "a good bundle, A",
    "B": "a good bundle, B",
    "torn": "a torn folder",
    "byte": "one changed byte",
    "schema": "states of another name",
    "golden": "golden states that do not come out",
}
Floats = NDArray[np.float64]
GOOD = ("A", "B")
LOAD = "/v2/repository/models/cartpole-dqn/load"


@dataclass(frozen=True)
class Figures:
    """What was seen."""

    reloads: dict[str, dict[int, int]]  # kind of bundle -> status of the load -> times
    bad_live: int  # loads after which another bundle was served than the last good one
    answers: int
    wrong: int
    shown: list[str]  # some of the wrong answers
    bundles: dict[str, int]  # digest -> answers
    memory_kb: list[int]  # of the server: after the settling, and at the end
    p99_ms: list[float]  # of the answers, in the first and in the last window
    p50_ms: list[float]
    reload_ms: float  # median, as the caller of the load sees it
    seconds: float

    @property
    def growth_mb(self) -> float:
        """What the server's memory grew by after the settling, in MB."""
        return (self.memory_kb[1] - self.memory_kb[0]) / 1024


def soak(scratch: Path, reloads: int, settled: int, window: int, seed: int = 0) -> Figures:
    """Reload so many times under load, and return what was seen."""
    live = scratch / "live"  # a link: exchanging it for another is one step
    digests, expectations = _prepare(scratch)
    _point(live, scratch / "A")
    rng = random.Random(seed)  # noqa: S311 - no secret depends on it
    statuses: dict[str, dict[int, int]] = {kind: {} for kind in (*GOOD, *bundles.FAULTS)}
    took: list[float] = []
    marks: list[float] = []
    memory: list[int] = []
    bad_live = 0
    good = "A"
    port = free_port()
    with served(port, live) as service, _loading(port, scratch, expectations) as loaders:
        begun = time.perf_counter()
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as caller:
            for number in range(reloads):
                marks.append(time.perf_counter())
                kind = rng.choice(list(statuses))
                _point(live, scratch / kind)
                started = time.perf_counter()
                status = _ask(caller, "POST", LOAD)[0]
                took.append(time.perf_counter() - started)
                statuses[kind][status] = statuses[kind].get(status, 0) + 1
                good = kind if kind in GOOD else good
                bad_live += json.loads(_ask(caller, "GET", "/model")[1])["digest"] != digests[good]
                if number + 1 in (settled, reloads):
                    memory.append(_memory_kb(service.process.pid))
        marks.append(time.perf_counter())
        for loader in loaders:
            loader.communicate(timeout=60)
    moments, seconds, found = _collect(scratch)
    windows = [
        seconds[(moments >= marks[first]) & (moments < marks[first + window])].tolist()
        for first in (0, reloads - window)
    ]
    return Figures(
        reloads=statuses,
        bad_live=bad_live,
        answers=len(seconds),
        wrong=sum(each["wrong"] for each in found),
        shown=[fault for each in found for fault in each["shown"]],
        bundles={
            digest: sum(each["bundles"].get(digest, 0) for each in found)
            for digest in digests.values()
        },
        memory_kb=memory,
        p99_ms=[round(percentile(part, 0.99) * 1e3, 3) for part in windows],
        p50_ms=[round(percentile(part, 0.5) * 1e3, 3) for part in windows],
        reload_ms=round(percentile(took, 0.5) * 1e3, 2),
        seconds=marks[-1] - begun,
    )


@contextmanager
def _loading(
    port: int, scratch: Path, expectations: Path
) -> Iterator[list["subprocess.Popen[bytes]"]]:
    """Let callers ask until their input is closed, or the block ends."""
    with ExitStack() as stack:
        loaders = []
        for number in range(LOADERS):
            arguments = [str(port), str(expectations), str(scratch / f"loader{number}")]
            command = [sys.executable, "-m", "benchmarks.operations.loader", *arguments]
            loader = stack.enter_context(subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE))
            stack.callback(loader.kill)
            loaders.append(loader)
        time.sleep(WARM_UP_SECONDS)
        yield loaders


def _prepare(scratch: Path) -> tuple[dict[str, str], Path]:
    """Write all kinds of bundles, and what the good ones answer to a file; return both."""
    committed = bundle.read(BUNDLE)
    good = {
        "A": bundles.relative(committed, scratch / "A", lambda weights: weights),
        "B": bundles.relative(committed, scratch / "B", bundles.halved),
    }
    for fault in bundles.FAULTS:
        bundles.spoiled(scratch / "B", scratch / fault, fault)
    values = committed.manifest.state
    low, high = [value.training_min for value in values], [value.training_max for value in values]
    states = np.random.default_rng(0).uniform(low, high, (STATES, len(values))).astype(np.float32)
    answers = {
        each.digest: list(load(each, "onnx").decide(states).q_values) for each in good.values()
    }
    expectations = scratch / "expected.json"
    expectations.write_text(json.dumps({"states": states.tolist(), "answers": answers}))
    return {kind: each.digest for kind, each in good.items()}, expectations


def _point(link: Path, target: Path) -> None:
    beside = link.with_suffix(".new")
    beside.symlink_to(target)
    beside.replace(link)


def _ask(caller: http.client.HTTPConnection, method: str, path: str) -> tuple[int, bytes]:
    caller.request(method, path, b"{}" if method == "POST" else None)
    answer = caller.getresponse()
    return answer.status, answer.read()


def _memory_kb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


def _collect(scratch: Path) -> tuple[Floats, Floats, list[Seen]]:
    """Return when each answer came, how long it took, and what else the callers saw."""
    moments, seconds, found = array("d"), array("d"), []
    for number in range(LOADERS):
        out = scratch / f"loader{number}"
        moments.frombytes(out.with_suffix(".moments").read_bytes())
        seconds.frombytes(out.with_suffix(".seconds").read_bytes())
        found.append(json.loads(out.with_suffix(".json").read_text()))
    return np.array(moments), np.array(seconds), found


def main() -> int:
    """Reload, and print what was seen. Returns 1 where a claim does not hold."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reloads", type=int, default=RELOADS, help=f"at least {2 * SETTLED}")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="upright-reload-") as scratch:
        seen = soak(
            Path(scratch), options.reloads, SETTLED, min(WINDOW, options.reloads // 2), options.seed
        )
    print(json.dumps(circumstances()))
    print(table(seen))
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "operations-reload.json").write_text(
        json.dumps(circumstances() | dataclasses.asdict(seen), indent=1) + "\n"
    )
    failed = (
        seen.wrong
        or seen.bad_live
        or seen.growth_mb >= GROWTH_MB
        or seen.p99_ms[1] > SLOWER * seen.p99_ms[0]
    )
    return int(bool(failed))


def table(seen: Figures) -> str:
    """Return the figures as the documents show them."""
    done = sum(sum(statuses.values()) for statuses in seen.reloads.values())
    good = sum(sum(seen.reloads[kind].values()) for kind in GOOD)
    rows = [
        ("reloads", f"{done:,} in {seen.seconds:.0f} s, {good:,} of good bundles"),
        *((f"load of {WORDS[kind]}", _statuses(seen.reloads[kind])) for kind in seen.reloads),
        ("loads after which the wrong bundle was served", f"{seen.bad_live}"),
        ("answers under way, each held to its digest", f"{seen.answers:,} by {LOADERS} callers"),
        ("failed or wrong answers", f"{seen.wrong}"),
        ("one load, median", f"{seen.reload_ms:.1f} ms"),
        (
            "answers, median, first and last thousand reloads",
            " and ".join(f"{each:.2f} ms" for each in seen.p50_ms),
        ),
        (
            "answers, p99, first and last thousand reloads",
            " and ".join(f"{each:.2f} ms" for each in seen.p99_ms),
        ),
        (
            f"memory of the service after {SETTLED} reloads, and growth since",
            f"{seen.memory_kb[0] / 1024:.1f} MB, {seen.growth_mb:.1f} MB",
        ),
    ]
    return "\n".join(
        ["| what | seen |", "| --- | --- |", *(f"| {what} | {found} |" for what, found in rows)]
    )


def _statuses(statuses: dict[int, int]) -> str:
    return ", ".join(f"{status}: {times:,}" for status, times in sorted(statuses.items()))


if __name__ == "__main__":
    sys.exit(main())
