"""Twenty trainings, each killed at a random moment and resumed, against one that never stopped.

The weights must be the same bytes.

python -m benchmarks.training.kill
"""

import argparse
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from training.checkpoints import Checkpoints, Identity, read
from training.recipes import recipe
from training.train import train

TRIALS = 20
# The robust recipe, cut to a few seconds: pushes, far starts, averaged weights, model selection.
CHANGES = {"steps": 32_000, "eval_frequency": 250, "buffer_size": 20_000}


def main() -> None:
    """Kill, resume, compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        _train(options.child)
        return
    moments = random.Random(0)  # noqa: S311 - moments, not secrets
    with tempfile.TemporaryDirectory() as temporary:
        whole = Path(temporary) / "whole"
        started = time.monotonic()
        subprocess.run(_command(whole), check=True)
        length = time.monotonic() - started
        same = 0
        for trial in range(TRIALS):
            folder = Path(temporary) / f"trial-{trial}"
            while not _is_killed(folder, moments.uniform(0, length)):
                shutil.rmtree(folder)  # it had ended before: once more
            subprocess.run(_command(folder), check=True)
            same += _same(whole, folder)
        print(
            f"{TRIALS} trainings of {length:.1f} s, each killed at a random moment and resumed:"
            f" {same} of {TRIALS} ended with identical weights"
        )


def _is_killed(folder: Path, seconds: float) -> bool:
    """Start a training and kill it after some seconds; return false where it has ended by then."""
    process = subprocess.Popen(_command(folder))
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
    return process.wait() == -signal.SIGKILL


def _command(folder: Path) -> list[str]:
    return [sys.executable, "-m", "benchmarks.training.kill", "--child", str(folder)]


def _train(folder: Path) -> None:
    chosen = recipe("robust", dict(CHANGES))
    with Checkpoints(folder, Identity.of(chosen, 0, "cpu"), every=0.5) as checkpoints:
        train(chosen, 0, torch.device("cpu"), checkpoints=checkpoints)


def _same(one: Path, other: Path) -> bool:
    ours, theirs = read(one)[1].flatten(), read(other)[1].flatten()
    names = ours.arrays.keys() - {"history"}  # it holds seconds
    equal = (ours.arrays[name].tobytes() == theirs.arrays[name].tobytes() for name in names)
    return ours.values == theirs.values and all(equal)


if __name__ == "__main__":
    main()
