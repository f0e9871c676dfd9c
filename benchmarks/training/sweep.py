"""Sweeps by Ray, measured: speed, trials and drivers that are killed, two nodes, 10,000 trials.

    python -m benchmarks.training.sweep                    all, with 40 trials (some ten minutes)
    python -m benchmarks.training.sweep --only speed kill  some of them
    python -m benchmarks.training.sweep --trials 10        fewer

The trials are those of the short recipe, evaluated in a few episodes: what is measured is the
sweep, and not the policies.
"""

import argparse
import os
import platform
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from pyarrow import parquet

from benchmarks.environments import ROOT
from tests.support.programs import trial_processes
from training.checkpoints import processor
from training.sweep import results
from training.sweep.cluster import LOCAL, connected
from training.sweep.plan import Evaluation, Sweep, code_digest, new_id, now
from training.sweep.reporting.report import write_report
from training.sweep.results import Row
from training.sweep.storage import Storage
from training.sweep.tasks import Resources, Standing, run_trials
from training.sweep.trial import SWEEP, OnProgress, Work, run_trial
from training.sweep.trials import Trial, seed_trials

SHORT = "quick"
EPISODES = Evaluation(episodes=20, scenario_episodes=4)
KILLS = (0.3, 1.5)  # trials' lengths between two kills
SCALE = (1_000, 2_500, 5_000, 10_000)
NODE_SECONDS = 30.0  # until a second node has joined
LONGEST_SECONDS = 1_800.0  # of one sweep


def main() -> None:
    """Measure what was asked for, and print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts: dict[str, Callable[[Path, int], None]] = {
        "speed": _speed,
        "kill": _kill,
        "nodes": _nodes,
        "scale": _scale,
    }
    parser.add_argument("--only", nargs="*", choices=parts, default=list(parts))
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--folder", type=Path, help="keep what is made here, and use what is there")
    options = parser.parse_args()
    print(
        f"{processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python"
        f" {platform.python_version()}, ray {version('ray')}, torch {version('torch')}\n"
    )
    with tempfile.TemporaryDirectory() as temporary:
        for name in options.only:
            parts[name](options.folder or Path(temporary), options.trials)


# One after the other, and by Ray


def _speed(folder: Path, trials: int) -> None:
    """Compare the time by Ray with that of the same trials one after the other, half before."""
    half = trials // 2
    before = _one_after_the_other(folder / "before", range(half))
    started = time.monotonic()
    by_ray = folder / "ray"
    subprocess.run(_command(by_ray, trials), check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    ray_seconds = time.monotonic() - started
    after = _one_after_the_other(folder / "after", range(half, trials))

    expected = _digests(folder / "before") | _digests(folder / "after")
    same = sum(digest == expected[seed] for seed, digest in _digests(by_ray).items())
    print(
        f"{trials} trials one after the other {before + after:.1f} s ({before:.1f} s for"
        f" the half before, {after:.1f} s for that after), by Ray {ray_seconds:.1f} s, start and"
        f" report included: {ray_seconds / (before + after):.0%}; {same} of {trials} with the"
        " same policy.onnx"
    )


def _one_after_the_other(folder: Path, seeds: range) -> float:
    """Run trials in one process without Ray. Returns the seconds."""
    work, trials = _sweep(folder, seeds)
    started = time.monotonic()
    for trial in trials:
        run_trial(work, trial, 1, lambda _share, _progress: None)
    seconds = time.monotonic() - started
    write_report(Storage(work.storage), work.sweep)
    return seconds


def _sweep(folder: Path, seeds: range) -> tuple[Work, tuple[Trial, ...]]:
    trials = seed_trials([("", {})], seeds)
    sweep = Sweep(
        id=new_id(),
        created=now(),
        kind="seeds",
        recipe=SHORT,
        changes={},
        trials=trials,
        evaluation=EPISODES,
        code=code_digest(),
    )
    storage = Storage(str(folder))
    storage.write(SWEEP, sweep.model_dump_json().encode())
    return Work(sweep.model_copy(update={"trials": ()}), str(folder)), trials


def _command(folder: Path, trials: int, *words: str) -> list[str]:
    return [
        *(sys.executable, "-m", "training", "sweep", "--recipe", SHORT),
        *("--seeds", f"0-{trials - 1}", "--storage", str(folder), "--checkpoint-every", "0.5"),
        *("--episodes", str(EPISODES.episodes)),
        *("--scenario-episodes", str(EPISODES.scenario_episodes)),
        *words,
    ]


def _digests(folder: Path) -> dict[int, str]:
    rows = parquet.read_table(folder / results.TABLE).to_pylist()
    return {row["seed"]: row["onnx_sha256"] for row in rows if row["status"] == results.DONE}


# Kills


def _kill(folder: Path, trials: int) -> None:
    """Kill processes of trials at random moments, and the driver once; then compare."""
    moments = random.Random(0)  # noqa: S311 - moments, not secrets
    swept = folder / "killed"
    expected, length = _expected(folder, trials)
    driver = _start(_command(swept, trials, "--resume"))
    kills, drivers = 0, 0
    deadline = time.monotonic() + LONGEST_SECONDS
    while time.monotonic() < deadline:
        try:
            driver.wait(length * moments.uniform(*KILLS))
            if driver.returncode == 0:
                break
            driver = _start(_command(swept, trials, "--resume"))  # Ray itself was lost
        except subprocess.TimeoutExpired:
            pass
        rows = len(list((swept / "rows").glob("*"))) if (swept / "rows").exists() else 0
        if drivers == 0 and rows >= trials // 2:
            driver.kill()
            driver.wait()
            drivers += 1
            driver = _start(_command(swept, trials, "--resume"))
        elif processes := trial_processes(driver.pid):
            os.kill(moments.choice(processes), signal.SIGKILL)
            kills += 1
    driver.kill()

    found = _digests(swept)
    same = sum(digest == expected[seed] for seed, digest in found.items())
    rows_read = parquet.read_table(swept / results.TABLE).to_pylist()
    again = sum(row["attempts"] > 1 for row in rows_read)
    print(
        f"{kills} kills of processes that ran trials and {drivers} of the driver: {len(found)} of"
        f" {trials} trials ended ({again} of them after more than one attempt), {same} with the"
        " policy.onnx of an undisturbed one"
    )


def _expected(folder: Path, trials: int) -> tuple[dict[int, str], float]:
    """Return the digests of undisturbed trainings by seed, and a trial's length in seconds."""
    places = [folder / "before", folder / "after"]
    if not (places[0] / results.TABLE).exists():
        _one_after_the_other(places[0], range(trials))
    tables = [
        parquet.read_table(place / results.TABLE).to_pylist()
        for place in places
        if (place / results.TABLE).exists()
    ]
    rows = [row for table in tables for row in table]
    lengths = [row["train_seconds"] + row["evaluation_seconds"] for row in rows]
    return {row["seed"]: row["onnx_sha256"] for row in rows}, sum(lengths) / len(lengths)


def _start(command: list[str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


# Two nodes


def _nodes(folder: Path, trials: int) -> None:
    """Run a sweep on two Ray nodes of this machine, and kill one of them on the way."""
    port, swept = _free_port(), folder / "nodes"
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    environment["PYTHONPATH"] = ""  # the nodes get the code from the driver
    places = [Path(tempfile.mkdtemp(prefix="ray-")) for _ in range(2)]
    head = _node(places[0], environment, "--head", f"--port={port}", "--include-dashboard=false")
    _wait_for(port)
    other = _node(places[1], environment, f"--address=127.0.0.1:{port}")
    time.sleep(NODE_SECONDS)
    try:
        driver_environment = {**environment, "PYTHONPATH": str(ROOT)}
        driver = subprocess.Popen(
            _command(swept, trials, "--resume", "--address", f"127.0.0.1:{port}"),
            cwd=ROOT,
            env=driver_environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        while driver.poll() is None and len(list(swept.glob("rows/*"))) < trials // 4:
            time.sleep(0.5)
        os.killpg(other.pid, signal.SIGKILL)
        text, _ = driver.communicate(timeout=LONGEST_SECONDS)
    finally:
        for node in (head, other):
            with_group(node.pid)
        for place in places:
            shutil.rmtree(place, ignore_errors=True)
    lost = sum("it goes on, attempt" in line for line in text.splitlines())
    rows = parquet.read_table(swept / results.TABLE).to_pylist()
    done = sum(row["status"] == results.DONE for row in rows)
    expected, _ = _expected(folder, trials)
    same = sum(digest == expected[seed] for seed, digest in _digests(swept).items())
    print(
        f"two nodes of one CPU, one of them killed after {trials // 4} trials: {done} of {trials}"
        f" trials ended, {lost} went on on the other node, {same} with the same policy.onnx;"
        f" exit code {driver.returncode}"
    )


def _wait_for(port: int) -> None:
    """Wait until a node listens."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.5)
        else:
            return
    raise TimeoutError("the head of the cluster did not start")


def with_group(leader: int) -> None:
    """Kill a process and those that it has started, where they still are."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return


def _node(place: Path, environment: dict[str, str], *words: str) -> "subprocess.Popen[bytes]":
    command = [
        *(str(Path(sys.executable).parent / "ray"), "start", "--block", "--num-cpus=1"),
        *("--node-ip-address=127.0.0.1", f"--temp-dir={place}", "--object-store-memory=80000000"),
        *words,
    ]
    return subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


# Scale


def empty_trial(work: Work, trial: Trial, attempt: int, on_progress: OnProgress) -> Row:
    """Do what a trial does but for training: keep a row of the usual size."""
    del on_progress
    random_rates = random.Random(trial.seed)  # noqa: S311 - no secrets
    scenarios = [f"scenario {number}" for number in range(21)]
    row: Row = {
        **results.row_without_policy(work.sweep, trial, results.DONE, reason=""),
        "passed": random_rates.random() < 0.5,
        "gate_failures": "",
        **dict.fromkeys(("digest", "onnx_sha256", "torchscript_sha256"), "0" * 64),
        **{results.rate_column(name): random_rates.random() for name in scenarios},
        **{results.lqr_column(name): 1.0 for name in scenarios},
        "mean_rate": random_rates.random(),
        "least_ratio": random_rates.random(),
        "validation_score": random_rates.random(),
        "steps": 1,
        "train_seconds": 1.0,
        "evaluation_seconds": 1.0,
        "attempts": attempt,
        "processor": "any",
    }
    Storage(work.storage).write(results.path_of(trial), results.to_json(row))
    return row


class _Silent:
    def ended(self, trial: Trial, row: Row) -> None:
        """Do nothing."""

    def lost(self, trial: Trial, reason: str, attempt: int) -> None:
        """Do nothing."""

    def standing(self, running: dict[int, Standing]) -> None:
        """Do nothing."""


def _scale(folder: Path, _: int) -> None:
    """Run 1,000 to 10,000 empty trials through the driver, and make the report of them."""
    with connected(LOCAL, cpus=os.cpu_count()):
        warm, trials = _sweep(folder / "warm", range(50))
        _run_empty(warm, trials)
        for count in SCALE:
            work, trials = _sweep(folder / f"scale-{count}", range(count))
            before, started, computed = _resident_mb(), time.monotonic(), time.process_time()
            _run_empty(work, trials)
            seconds, computing = time.monotonic() - started, time.process_time() - computed
            print(
                f"{count:,} empty trials: {1000 * seconds / count:.2f} ms each, of which the driver"
                f" computes {1000 * computing / count:.2f} ms; it grew by"
                f" {_resident_mb() - before:.1f} MB to {_resident_mb():.0f} MB"
                f" (at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB)",
                flush=True,
            )
    storage = Storage(str(folder / f"scale-{SCALE[-1]}"))
    started, computed = time.monotonic(), time.process_time()
    write_report(storage, work.sweep.model_copy(update={"trials": trials}))
    print(
        f"the report of {SCALE[-1]:,} rows: {time.monotonic() - started:.1f} s,"
        f" {time.process_time() - computed:.1f} s of them computing"
    )


def _run_empty(work: Work, trials: tuple[Trial, ...]) -> None:
    run_trials(
        work,
        trials,
        run_trial=empty_trial,
        resources=Resources(),
        attempts=3,
        observer=_Silent(),
    )


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


if __name__ == "__main__":
    main()
