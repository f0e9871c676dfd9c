"""The baseline recipe, measured against a plain transcription of the tutorial's loop.

python -m benchmarks.training.baseline            speed, five interleaved pairs (a minute)
python -m benchmarks.training.baseline --seeds 3  speed, then whole trainings of the seeds 0, 1, 2
"""

import argparse
import platform
import statistics
from importlib.metadata import version

import torch

from benchmarks.training import transcription
from training.evaluation.episodes import run_episodes, summarize
from training.evaluation.runtimes import from_onnx
from training.export.formats import to_onnx
from training.recipes import RECIPES
from training.train import train
from training.trainer import Progress

PAIRS = 5
STEPS = 20_000
CPU = torch.device("cpu")


def main() -> None:
    """Measure and print tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seeds",
        type=int,
        default=0,
        metavar="N",
        help="train the first N seeds to their end and evaluate them",
    )
    seeds = parser.parse_args().seeds
    print(
        f"Python {platform.python_version()}, torch {version('torch')},"
        f" gymnasium {version('gymnasium')}, one thread\n"
    )
    _speed()
    if seeds:
        _success(seeds)


def _speed() -> None:
    ours, peers = [], []
    for seed in range(PAIRS):
        ours.append(_steps_per_second(seed))
        peers.append(transcription.steps_per_second(seed, STEPS))
    ratios = [one / other for one, other in zip(ours, peers, strict=True)]
    print(
        f"| environment steps per second, {PAIRS} interleaved pairs of {STEPS:,} steps"
        " | median | least | most |"
    )
    print("| --- | --- | --- | --- |")
    for name, values in (("baseline recipe", ours), ("plain transcription", peers)):
        least, most = min(values), max(values)
        print(f"| {name} | {statistics.median(values):,.0f} | {least:,.0f} | {most:,.0f} |")
    least, most = min(ratios), max(ratios)
    print(f"| ratio, pair by pair | {statistics.median(ratios):.2f} | {least:.2f} | {most:.2f} |")


def _steps_per_second(seed: int) -> float:
    last: list[Progress] = []
    train(
        RECIPES["baseline"],
        seed,
        CPU,
        on_progress=last.append,
        interrupted=lambda: bool(last) and last[-1].metrics["steps"] >= STEPS,
    )
    return last[-1].metrics["steps"] / last[-1].metrics["seconds"]


def _success(seeds: int) -> None:
    print(
        "\n| seed | stopped by | episodes | steps | seconds"
        " | greedy episodes of the ONNX file | mean | worst | success rate |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for seed in range(seeds):
        run = train(RECIPES["baseline"], seed, CPU)
        result = summarize(run_episodes(from_onnx(to_onnx(run.network))))
        print(
            f"| {seed} | {run.stopped} | {len(run.history):,} | {run.steps:,} | {run.seconds:.1f}"
            f" | {result.episodes:,}"
            f" | {result.mean:.2f} | {result.minimum} | {result.success_rate:.1%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
