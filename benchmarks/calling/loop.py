"""A control loop in real time: CartPole is stepped by the clock, the service is asked at every step, and its troubles are real.

    python -m benchmarks.calling.loop --hertz 50 --seconds 60
    python -m benchmarks.calling.loop --hertz 50 --seconds 60 --troubles

With --troubles a proxy of its own process stands between the two, and a supervisor of its own process kills the service for 2 s, stops it
for 1 s, delays its answers, and replaces it by one with another bundle. Afterwards every action of the policy is held to what the
bundle answers to that very state: an action for any other state would be a stale one.
"""

import argparse
import gc
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import gymnasium
import numpy as np
from upright_client import Decision, PolicyClient

from benchmarks.calling.served import (
    BUNDLE,
    free_port,
    other_bundle,
    percentile,
    ready,
    served,
    write,
)
from models import bundle
from service.inference.loading import load
from tests.support.faulty_proxy import FaultyProxy


@dataclass(frozen=True)
class Step:
    """One step of the loop."""

    at: float  # seconds on the system's clock
    took: float  # seconds that act took
    state: tuple[float, ...]
    decision: Decision


def balance(state: tuple[float, ...]) -> int:
    """Return an action by hand: what the loop falls back to."""
    position, velocity, angle, turning = state
    return int(0.1 * position + 0.2 * velocity + 3.0 * angle + 0.8 * turning > 0)


def run(client: PolicyClient, hertz: int, seconds: float) -> tuple[list[Step], int]:
    """Step CartPole by the clock; return every step, and how often the pole fell."""
    environment = gymnasium.make("CartPole-v1").unwrapped
    environment.tau = 1 / hertz  # type: ignore[attr-defined] # CartPole has it: the step of its physics is the step of the loop
    observed, _ = environment.reset(seed=0)
    steps: list[Step] = []
    falls = 0
    gc.collect()
    gc.disable()  # as a control program does: what this one remembers of every step would be gone through again and again
    start = time.monotonic()
    for number in range(int(hertz * seconds)):
        time.sleep(max(0.0, start + number / hertz - time.monotonic()))
        before = time.monotonic()
        decision = client.act(observed)
        steps.append(Step(before, time.monotonic() - before, tuple(observed.tolist()), decision))
        observed, _, terminated, _, _ = environment.step(decision.action)
        if terminated:
            falls += 1
            observed, _ = environment.reset(seed=number)
    return steps, falls


def report(steps: list[Step], falls: int, deadline: float) -> dict[str, object]:
    """Return the figures of some steps, times in milliseconds."""
    took = [step.took for step in steps]
    reasons: dict[str, int] = {}
    for step in steps:
        reasons[step.decision.reason or "policy"] = (
            reasons.get(step.decision.reason or "policy", 0) + 1
        )
    return {
        "steps": len(steps),
        "decided_by": reasons,
        "missed_share": reasons.get("deadline", 0) / max(1, len(steps)),
        "act_ms": {
            name: round(1e3 * percentile(took, share), 3)
            for name, share in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0))
        },
        "past_deadline_ms": {
            name: round(1e3 * (percentile(took, share) - deadline), 3)
            for name, share in (("p99.9", 0.999), ("max", 1.0))
        },
        "later_than_deadline": sum(value > deadline for value in took),
        "falls": falls,
    }


def stale(steps: list[Step]) -> int:
    """Return how many actions of the policy were not the bundle's answer to their own state."""
    policy = load(bundle.read(BUNDLE), "onnx")
    asked = [step for step in steps if step.decision.source == "policy"]
    answers = policy.decide(np.array([step.state for step in asked], np.float32))
    return sum(
        list(step.decision.q_values) != q_values
        for step, q_values in zip(asked, answers.q_values, strict=True)
    )


def troubled(pipe: Connection, port: int, deadline: float) -> None:
    """Be the supervisor and the network: start, kill, stop, delay, replace; say when each began and when the service was back."""
    with tempfile.TemporaryDirectory() as folder, FaultyProxy(port, whole=False) as proxy:
        other = other_bundle(Path(folder) / "other")
        events: list[tuple[str, float]] = []
        service = _start(port, BUNDLE)
        pipe.send(proxy.address)
        pipe.recv()

        def mark(name: str) -> None:
            events.append((name, time.monotonic()))

        def kill() -> None:
            service.kill()
            service.wait()

        time.sleep(5)
        mark("killed")
        kill()
        time.sleep(2)
        service = _start(port, BUNDLE)
        mark("back after the kill")
        time.sleep(5)
        mark("stopped")
        os.kill(service.pid, signal.SIGSTOP)
        time.sleep(1)
        os.kill(service.pid, signal.SIGCONT)
        mark("back after the stop")
        time.sleep(5)
        mark("late answers")
        proxy.fault, proxy.delay = "delay", 1.6 * deadline
        time.sleep(5)
        proxy.fault = "none"
        mark("back after the late answers")
        time.sleep(5)
        mark("another bundle")
        kill()
        service = _start(port, other)
        mark("another bundle is ready")
        time.sleep(5)
        kill()
        service = _start(port, BUNDLE)
        mark("back after the other bundle")
        pipe.recv()
        pipe.send(events)
        kill()


def _start(port: int, folder: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "service", "--port", str(port), "--bundle", str(folder)]
    service = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not ready(port):
        time.sleep(0.005)
    return service


def returns(steps: list[Step], events: list[tuple[str, float]]) -> dict[str, float]:
    """Return, for each return of the service, the seconds until the policy decided again."""
    found = {}
    for name, at in events:
        if name.startswith("back"):
            first = next(
                (
                    step.at + step.took
                    for step in steps
                    if step.at >= at and step.decision.source == "policy"
                ),
                float("inf"),
            )
            found[name] = round(first - at, 3)
    return found


def phases(steps: list[Step], events: list[tuple[str, float]]) -> dict[str, dict[str, int]]:
    """Return who decided in each phase: from one event to the next."""
    found: dict[str, dict[str, int]] = {}
    starts = [("at first", 0.0), *events]
    for (name, begin), (_, end) in zip(starts, [*starts[1:], ("end", float("inf"))], strict=True):
        deciders = [step.decision.reason or "policy" for step in steps if begin <= step.at < end]
        found[name] = {decider: deciders.count(decider) for decider in sorted(set(deciders))}
    return found


def main() -> None:
    """Run the loop and print its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hertz", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--deadline", type=float, help="seconds; one period if not given")
    parser.add_argument("--transport", choices=["http", "stream"], default="http")
    parser.add_argument("--troubles", action="store_true")
    parser.add_argument(
        "--realtime",
        action="store_true",
        help="SCHED_FIFO for the loop and the service, as a control program would ask for",
    )
    options = parser.parse_args()
    if options.realtime:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
    deadline = options.deadline or 1 / options.hertz
    pin = bundle.read(BUNDLE).digest
    settings = {
        "transport": options.transport,
        "deadline": deadline,
        "fallback": balance,
        "pin_digest": pin,
    }
    if options.troubles:
        ours, theirs = multiprocessing.Pipe()
        supervisor = multiprocessing.get_context("spawn").Process(
            target=troubled, args=(theirs, free_port(), deadline)
        )
        supervisor.start()
        with PolicyClient(ours.recv(), **settings) as client:
            ours.send("go")
            steps, falls = run(client, options.hertz, options.seconds)
            ours.send("end")
            events = ours.recv()
            counters = client.counters()
        supervisor.join()
    else:
        events = []
        with served(free_port()) as service, PolicyClient(service.address, **settings) as client:
            client.ready()
            steps, falls = run(client, options.hertz, options.seconds)
            counters = client.counters()
    began = steps[0].at
    figures = report(steps, falls, deadline) | {
        "hertz": options.hertz,
        "seconds": options.seconds,
        "transport": options.transport,
        "deadline_ms": 1e3 * deadline,
        "realtime": options.realtime,
        "stale_actions": stale(steps),
        "late_answers_thrown_away": counters.late_answers,
        "reconnects": counters.reconnects,
        "events": [(name, round(at - began, 2)) for name, at in events],
        "seconds_until_policy": returns(steps, events),
        "phases": phases(steps, events),
    }
    write(
        f"loop-{options.hertz}-{options.transport}{'-troubles' if options.troubles else ''}{'-realtime' if options.realtime else ''}",
        figures,
    )
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
