"""By fault and kind of caller: what was asked, and what became of it."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.calling.served import percentile
from benchmarks.operations.chaos.callers import DEADLINE_SECONDS, Event

LATE_SECONDS = 0.1
AFTER_SECONDS = 5.0  # that belong to a fault still, after its end
RECOVERY_SECONDS = 2.0  # from the end of a fault, after which nothing more may fail
OVERRUN_SECONDS = 0.002  # by which a call of upright_client may miss its deadline
CALM = "none"

HEADER = (
    "| fault | caller | asked | failed | fallback | late | wrong | stale | p99.9 ms | longest ms"
    " | well again after s |\n|" + " --- |" * 11
)


@dataclass(frozen=True)
class Window:
    """When a fault began and ended, by the monotonic clock, and what else was seen of it."""

    fault: str
    begin: float
    end: float
    seen: tuple[str, ...]


def fault_at(windows: Sequence[Window], event: Event) -> Window | None:
    """Return the fault during which a request was under way, the last one that began before."""
    due, seconds, _ = event
    begun = [
        window
        for window in windows
        if window.begin <= due + seconds and due <= window.end + AFTER_SECONDS
    ]
    return begun[-1] if begun else None


def rows(windows: Sequence[Window], happened: Mapping[str, Iterable[Event]]) -> list[str]:
    """Return the rows of the table, by fault and caller."""
    groups: dict[tuple[str, str], list[tuple[Event, Window | None]]] = defaultdict(list)
    for caller, events in happened.items():
        for event in events:
            window = fault_at(windows, event)
            groups[window.fault if window else CALM, caller].append((event, window))
    order = [CALM, *dict.fromkeys(window.fault for window in windows)]
    return [
        f"| {fault} | {caller} | {_cells(groups[fault, caller])} |"
        for fault in order
        for caller in happened
        if (fault, caller) in groups
    ]


def _cells(events: Sequence[tuple[Event, Window | None]]) -> str:
    outcomes = Counter(outcome.partition(":")[0] for (_, _, outcome), _ in events)
    answered = [seconds for (_, seconds, outcome), _ in events if outcome == "ok"]
    times = [1e3 * seconds for (_, seconds, _), _ in events]
    well_again = max(
        (
            due + seconds - window.end
            for (due, seconds, outcome), window in events
            if window and (outcome != "ok" or seconds > LATE_SECONDS)
        ),
        default=0.0,
    )
    cells = (
        len(events),
        outcomes["failed"],
        outcomes["fallback"],
        sum(seconds > LATE_SECONDS for seconds in answered),
        outcomes["wrong"],
        outcomes["stale"],
        f"{percentile(times, 0.999):.1f}",
        f"{max(times):.1f}",
        f"{max(0.0, well_again):.1f}",
    )
    return " | ".join(map(str, cells))


def reasons(happened: Mapping[str, Iterable[Event]]) -> list[str]:
    """Return what was not answered as it should be, in the words of each caller."""
    counts = Counter(
        (caller, outcome)
        for caller, events in happened.items()
        for _, _, outcome in events
        if outcome != "ok"
    )
    return [f"{caller}: {times} x {outcome}" for (caller, outcome), times in counts.most_common()]


def failings(windows: Sequence[Window], happened: Mapping[str, Sequence[Event]]) -> list[str]:
    """Return what is worse than promised."""
    found = []
    for caller, events in happened.items():
        outcomes = Counter(outcome for _, _, outcome in events)
        found += [
            f"{caller}: {outcomes[outcome]} {outcome} answers"
            for outcome in ("wrong", "stale")
            if outcomes[outcome]
        ]
    failed: Counter[str] = Counter()
    for event in happened.get("http", ()):
        if event[2].startswith("failed"):
            window = fault_at(windows, event)
            failed[window.fault if window else CALM] += 1
    kills = sum(window.fault == "SIGKILL" for window in windows)
    for fault, times in failed.items():
        if times > (kills if fault == "SIGKILL" else 0):
            found.append(f"http: {times} failed requests, fault: {fault}")
    for caller, events in happened.items():
        long_after = Counter(
            window.fault
            for event in events
            if event[2] != "ok"
            and (window := fault_at(windows, event))
            and event[0] > window.end + RECOVERY_SECONDS
        )
        found += [
            f"{caller}: {times} not answered more than {RECOVERY_SECONDS:.0f} s after: {fault}"
            for fault, times in long_after.items()
        ]
        if caller.startswith("client"):
            over = percentile([seconds for _, seconds, _ in events], 0.999) - DEADLINE_SECONDS
            if over > OVERRUN_SECONDS:
                found.append(f"{caller}: {1e3 * over:.1f} ms past its deadline at p99.9")
    return found
