"""Training, measured against peers: success over seeds, wall time from process start, memory.

    python -m benchmarks.training                        everything (an hour on one core)
    python -m benchmarks.training --only quick=20        some rows, each with its number of seeds

Each training runs by itself, on one core or on some (`--cores 0 1`). Ours runs to the written
bundle: training, export, parity, 1,000 episodes and the robustness evaluation. A peer runs to its
final policy. Both are then evaluated on the same 1,000 held-out starts.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats

from benchmarks.environments import ROOT, environment
from benchmarks.training.sb3_peer import EPISODES, HELD_OUT

HERE = Path(__file__).parent
RESULTS = ROOT / "benchmarks" / "results" / "training.json"
ROWS = {"quick": 20, "robust": 20, "baseline": 5, "sb3": 5, "cleanrl": 5}
TITLES = {
    "quick": "Upright, `quick`",
    "robust": "Upright, `robust`",
    "baseline": "Upright, `baseline` (the tutorial's)",
    "sb3": "Stable-Baselines3 2.9.2, the zoo's configuration",
    "cleanrl": "CleanRL's published configuration, in a plain loop",
}


def main() -> None:
    """Measure, write the JSON, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", nargs="*", metavar="ROW=SEEDS", help=f"rows and their seeds (all: {ROWS})"
    )
    parser.add_argument(
        "--cores", type=int, nargs="+", default=[0], help="the cores that each training may use"
    )
    options = parser.parse_args()
    chosen = dict(part.split("=") for part in options.only) if options.only else ROWS
    os.sched_setaffinity(0, options.cores)

    results: dict[str, list[dict[str, Any]]] = {name: [] for name in chosen}
    # Seed by seed, row by row: a machine whose speed drifts slows all of them alike.
    for seed in range(max(int(count) for count in chosen.values())):
        for name, count in chosen.items():
            if seed < int(count):
                results[name].append({"seed": seed, **_measure(name, seed)})
                print(name, results[name][-1], flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1))
    print(
        f"\nPython {platform.python_version()}, torch {version('torch')},"
        f" gymnasium {version('gymnasium')}, cores: {len(options.cores)}\n"
    )
    _print_table(results)


def _measure(name: str, seed: int) -> dict[str, Any]:
    """Run one training as a process, and evaluate what it left."""
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / "policy"
        if name == "sb3":
            command = [
                str(environment("sb3", HERE / "sb3.txt") / "bin" / "python"),
                str(HERE / "sb3_peer.py"),
                str(seed),
            ]
        elif name == "cleanrl":
            command = [
                sys.executable,
                "-m",
                "benchmarks.training.cleanrl_peer",
                str(seed),
                str(EPISODES),
                str(HELD_OUT),
            ]
        else:
            places = ["--out", str(out), "--run", str(Path(temporary) / "run")]
            command = [
                sys.executable,
                "-m",
                "training",
                "train",
                name,
                "--seed",
                str(seed),
                "--device",
                "cpu",
                "--json",
                *places,
            ]
        started = time.perf_counter()
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None  # noqa: S101 - it was asked for
        last = process.stdout.read().splitlines()[-1:]
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - started
        result = {"exit": process.returncode, "seconds": wall, "peak_mb": usage.ru_maxrss / 1024}
        if name in ("sb3", "cleanrl"):
            return {**result, **json.loads(last[0])}
        if process.returncode != 0:
            return {**result, "mean": float("nan"), "success_rate": 0.0, "steps": 0}
        return {**result, **_evaluate(out)}


def _evaluate(out: Path) -> dict[str, Any]:
    from models import bundle
    from training.evaluation.episodes import run_episodes
    from training.evaluation.runtimes import from_onnx

    written = bundle.read(out)
    q_values = from_onnx(written.artifacts["onnx"])
    steps = run_episodes(q_values, episodes=EPISODES, seed=HELD_OUT).steps
    robustness = {
        scenario.name: (scenario.success_rate, scenario.lqr_success_rate)
        for scenario in written.manifest.robustness.scenarios
    }
    return {
        "mean": float(steps.mean()),
        "success_rate": float((steps >= 500).mean()),
        "steps": written.manifest.provenance.steps,
        "robustness": robustness,
    }


def _print_table(results: dict[str, list[dict[str, Any]]]) -> None:
    heads = (
        "training",
        "seeds",
        "all 1,000 held-out episodes at 500",
        "score, IQM [95 %]",
        "wall s, median [least, most]",
        "steps",
        "peak MB",
    )
    print("| " + " | ".join(heads) + " |\n" + "| --- " * len(heads) + "|")
    for name, rows in results.items():
        scores = np.array([0.0 if np.isnan(row["mean"]) else row["mean"] for row in rows])
        seconds = [row["seconds"] for row in rows]
        print(
            f"| {TITLES[name]} | {len(rows)}"
            f" | {sum(row['success_rate'] == 1 for row in rows)} of {len(rows)} | {_iqm(scores)}"
            f" | {statistics.median(seconds):.1f} [{min(seconds):.1f}, {max(seconds):.1f}]"
            f" | {statistics.median(row['steps'] for row in rows):,.0f}"
            f" | {max(row['peak_mb'] for row in rows):.0f} |"
        )
    if "robust" in results:
        _print_robustness(results["robust"])


def _iqm(scores: "np.ndarray[Any, np.dtype[np.float64]]") -> str:
    """Return the interquartile mean with a bootstrap interval.

    After Agarwal et al. 2021, "Deep RL at the Edge of the Statistical Precipice".
    """
    centre = scipy.stats.trim_mean(scores, 0.25)
    if np.ptp(scores) == 0:
        return f"{centre:.1f} [no spread]"
    low, high = scipy.stats.bootstrap(
        (scores,),
        lambda values, axis: scipy.stats.trim_mean(values, 0.25, axis=axis),
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return f"{centre:.1f} [{low:.1f}, {high:.1f}]"


def _print_robustness(rows: list[dict[str, Any]]) -> None:
    scenarios = list(rows[0].get("robustness", {}))
    print(
        "\n| `robust`, success rate | "
        + " | ".join(scenarios)
        + " |\n"
        + "| --- " * (len(scenarios) + 1)
        + "|"
    )
    for row in rows:
        print(
            f"| seed {row['seed']} | "
            + " | ".join(f"{row['robustness'][scenario][0]:.4g}" for scenario in scenarios)
            + " |"
        )
    print(
        "| LQR | "
        + " | ".join(f"{rows[0]['robustness'][scenario][1]:.4g}" for scenario in scenarios)
        + " |"
    )


if __name__ == "__main__":
    main()
