"""The baseline recipe, measured against a plain transcription of the tutorial's loop.

python -m benchmarks.training.baseline            speed, five interleaved pairs (a minute)
python -m benchmarks.training.baseline --seeds 3  speed, then whole trainings of the seeds 0, 1, 2
"""

import argparse
import json
import platform
import statistics
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from urllib.request import Request, urlopen

import torch

from benchmarks.calling.served import free_port, served
from benchmarks.environments import processor
from benchmarks.training import transcription
from training.evaluation.runtimes import PolicyFileError
from training.export.candidates import from_run
from training.export.exporter import GateError, export
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
        f"{processor()}, Python {platform.python_version()}, torch {version('torch')},"
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
    """Train, export and evaluate; what stopped by the tutorial's rule is exported as it is."""
    print(
        "\n| seed | stopped | episodes | steps | seconds | exported | mean of 1,000 greedy episodes"
        " | worst | to the limit | largest error in Q, and its bound |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for seed in range(seeds):
        run = train(RECIPES["baseline"], seed, CPU)
        start = (
            f"| {seed} | {run.stopped} | {len(run.history):,} | {run.steps:,} | {run.seconds:.1f}"
        )
        with tempfile.TemporaryDirectory() as folder:
            try:
                manifest = export(
                    from_run(run),
                    Path(folder) / "bundle",
                    name="baseline",
                    model_version="1",
                    created=datetime.now(UTC),
                ).manifest
            except (GateError, PolicyFileError) as error:
                print(f"{start} | no: {error} | | | | |", flush=True)
                continue
            _check_served(Path(folder) / "bundle")
        result, parity = manifest.evaluation, manifest.parity
        print(
            f"{start} | yes, and served | {result.mean:.1f} | {result.minimum}"
            f" | {result.success_rate:.1%}"
            f" | {max(parity.largest_error.values()):.2g} of {parity.largest_bound:.2g} |",
            flush=True,
        )


def _check_served(folder: Path) -> None:
    """Serve a bundle, and fail where it gives no answer."""
    with served(free_port(), folder) as running:
        request = Request(  # noqa: S310 - loopback
            f"{running.address}/act", b'{"state":[0,0,0.05,0]}'
        )
        with urlopen(request, timeout=10) as answer:  # noqa: S310 - loopback
            assert json.load(answer)["model"] == "baseline"  # noqa: S101 - what is measured


if __name__ == "__main__":
    main()
