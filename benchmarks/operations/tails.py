"""Where the longest milliseconds of `POST /act` come from, in a control loop at a fixed rate.

    python -m benchmarks.operations.tails
    python -m benchmarks.operations.tails --hertz 50 --causes alone scrape all

Each cause has a service of its own; in every round each is asked by a loop of its own for some
seconds, one after the other, while only that cause is at work. `all` is what the causes together
are: metrics scraped each second, the record on, and another bundle loaded each ten seconds.
Service and loop have a core each, and by `--realtime` the priority that a control program has
(`SCHED_FIFO`, which needs root): what else runs on the machine then disturbs neither.
"""

import argparse
import gc
import http.client
import json
import multiprocessing
import os
import shutil
import signal
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path

from benchmarks.calling.served import BUNDLE, Served, free_port, other_bundle, percentile, served
from benchmarks.environments import processor
from benchmarks.serving.measure import LOAD_CORE, SERVER_CORE

ROUNDS, SECONDS = 5, 10
PRIORITY = 10  # of SCHED_FIFO
BODY = b'{"state":[0.01,-0.02,0.05,0.3]}'
REQUEST = (
    b"POST /act HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
)


@dataclass(frozen=True)
class Cause:
    """What is at work while a loop asks: flags of the service, and what is done meanwhile."""

    flags: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()  # that are asked for each second
    is_reloaded: bool = False  # in the middle of each round, which lasts ten seconds


CAUSES = {
    "alone": Cause(),
    "scrape": Cause(paths=("/metrics",)),
    "record": Cause(flags=("--record", "{scratch}/record.sqlite")),
    "reload": Cause(is_reloaded=True),
    "shadow": Cause(flags=("--shadow", "{other}")),
    "page": Cause(paths=("/", "/model", "/health/ready", "/openapi.json")),
    "all": Cause(("--record", "{scratch}/record.sqlite"), ("/metrics",), is_reloaded=True),
}


def main() -> None:
    """Measure round by round, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hertz", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of a cause in a round")
    parser.add_argument("--causes", nargs="+", choices=list(CAUSES), default=list(CAUSES))
    parser.add_argument("--realtime", action="store_true")
    options = parser.parse_args()

    seconds: dict[str, list[list[float]]] = {name: [] for name in options.causes}
    with tempfile.TemporaryDirectory(prefix="upright-tails-") as folder, ExitStack() as stack:
        services = {
            name: stack.enter_context(_serve(Path(folder, name), CAUSES[name], options.realtime))
            for name in options.causes
        }
        _own_core(os.getpid(), LOAD_CORE, realtime=options.realtime)
        for service in services.values():  # each has answered its first thousand
            ask(service.port, options.hertz, 2)
        for _ in range(options.rounds):
            for name, service in services.items():
                with _at_work(CAUSES[name], service, options.seconds, realtime=options.realtime):
                    seconds[name].append(ask(service.port, options.hertz, options.seconds))

    print(
        f"{processor()}, {options.hertz} Hz, {options.rounds} rounds of {options.seconds:g} s"
        f"{', SCHED_FIFO' if options.realtime else ''}\n"
    )
    print(_table(seconds))


def ask(port: int, hertz: int, seconds: float) -> list[float]:
    """Ask by the clock on one connection, and return what each answer took, in seconds."""
    taken = []
    gc.collect()
    gc.disable()
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        start = time.perf_counter()
        for number in range(int(hertz * seconds)):
            time.sleep(max(0.0, start + number / hertz - time.perf_counter()))
            begun = time.perf_counter()
            connection.sendall(REQUEST)
            answer = connection.recv(65_536)
            taken.append(time.perf_counter() - begun)
            if not answer.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"no good answer: {answer[:500]!r}")
    gc.enable()
    return taken


@contextmanager
def _serve(scratch: Path, cause: Cause, realtime: bool) -> Iterator[Served]:
    """Serve a bundle that can be exchanged, on the servers' core."""
    scratch.mkdir()
    other = other_bundle(scratch / "other")
    shutil.copytree(BUNDLE, scratch / "first")
    (scratch / "bundle").symlink_to("first")
    flags = (flag.format(scratch=scratch, other=other) for flag in cause.flags)
    command = ("-m", "service", *flags)
    with served(free_port(), scratch / "bundle", command) as service:
        _own_core(service.process.pid, SERVER_CORE, realtime=realtime)
        yield service


def _own_core(pid: int, core: int, *, realtime: bool) -> None:
    """Let a process, with the threads that it has, run on one core."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        number = int(task.name)
        os.sched_setaffinity(number, {core})
        if realtime:  # the threads beside the first one wait for it, and those that it starts later
            priority = PRIORITY if number == pid else PRIORITY - 1
            policy = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
            os.sched_setscheduler(number, policy, os.sched_param(priority))


@contextmanager
def _at_work(cause: Cause, service: Served, seconds: float, *, realtime: bool) -> Iterator[None]:
    """Do what a cause is until the block ends, in a process that waits for service and loop."""
    if not cause.paths and not cause.is_reloaded:
        yield
        return
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    arguments = (cause, service.port, service.process.pid, seconds, realtime, started)
    process = context.Process(target=_disturb, args=arguments)
    process.start()
    started.wait(60)  # its imports would be a disturbance, too
    try:
        yield
    finally:
        process.join(seconds)
        if process.exitcode != 0:
            raise RuntimeError(f"the cause did not end well: {process.exitcode}")


def _disturb(
    cause: Cause, port: int, pid: int, seconds: float, realtime: bool, started: Event
) -> None:
    if realtime:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY - 1))
    else:
        os.nice(19)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.connect()
    started.set()
    for second in range(int(seconds) - 1):  # it must end with the loop
        for path in cause.paths:
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                raise RuntimeError(f"{path}: {answer.status}")
        if cause.is_reloaded and second == int(seconds) // 2 - 1:
            _exchange(port, pid)
        time.sleep(1)
    connection.close()


def _exchange(port: int, pid: int) -> None:
    """Let the service load the bundle that it does not serve, and see that it does."""
    link = Path(_bundle_of(pid))
    target = "other" if link.readlink() == Path("first") else "first"
    before = _digest(port)
    beside = link.with_suffix(".new")
    beside.symlink_to(target)
    beside.replace(link)
    os.kill(pid, signal.SIGHUP)
    for _ in range(50):
        time.sleep(0.1)
        if _digest(port) != before:
            return
    raise RuntimeError("the other bundle was not loaded")


def _bundle_of(pid: int) -> str:
    words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return words[words.index("--bundle") + 1]


def _digest(port: int) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/model")
    digest = json.loads(connection.getresponse().read())["digest"]
    connection.close()
    return str(digest)


def _table(seconds: dict[str, list[list[float]]]) -> str:
    """Return a line for each cause: all rounds together, and the ratio of p99.9 within a round."""
    first = next(iter(seconds))
    lines = [
        f"| at work | p50 | p99 | p99.9 | longest, ms | p99.9 of that of {first}: median, range |",
        "| --- | --- | --- | --- | --- | --- |",
    ]

    def ratios(name: str, value: Callable[[list[float]], float]) -> list[float]:
        pairs = zip(seconds[name], seconds[first], strict=True)
        return [value(mine) / value(base) for mine, base in pairs]

    for name, rounds in seconds.items():
        every = [1e3 * value for one in rounds for value in one]
        figures = " | ".join(f"{percentile(every, share):.3f}" for share in (0.5, 0.99, 0.999, 1))
        found = ratios(name, lambda one: percentile(one, 0.999))
        spread = f"{statistics.median(found):.2f}, {min(found):.2f} to {max(found):.2f}"
        lines.append(f"| {name} | {figures} | {spread} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
