"""Trains for three plants of a user's own; each policy must pass the gate of its recipe.

    python -m benchmarks.training.plants                    by the recipe robust
    python -m benchmarks.training.plants --recipe quick     by the quick one

The seconds are those of the whole command: the search for the starts that can be saved, training,
export and evaluation. Exits with 1 where a policy does not pass.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.environments import ROOT, processor
from models import bundle
from models.manifest import Plant
from training.recipes import RECIPES

PLANTS = {
    "a pole of 0.3 kg at 100 Hz": Plant(pole_mass=0.3, step_seconds=0.01),
    "a cart of 3 kg with friction": Plant(cart_mass=3.0, force=25.0, friction=2.0),
    "a long pole at 40 Hz": Plant(half_length=1.0, pole_mass=0.2, step_seconds=0.025),
}


def main() -> None:
    """Train for each plant and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    recipes = [name for name in RECIPES if name != "baseline"]
    parser.add_argument("--recipe", choices=recipes, default="robust")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    print(f"{processor()}; recipe {options.recipe}, seed {options.seed}\n")
    heads = ("plant", "gate", "mean of 1,000 episodes", "recovery: policy, LQR", "worst", "seconds")
    print(f"| {' | '.join(heads)} |\n{'| --- ' * len(heads)}|")
    passed = [_train(name, options.recipe, options.seed) for name in PLANTS]
    sys.exit(not all(passed))


def _train(name: str, recipe: str, seed: int) -> bool:
    """Train for one plant and print its row; return whether its policy passed."""
    flags = [
        word
        for field, value in PLANTS[name].model_dump(exclude_defaults=True).items()
        for word in (f"--plant.{field.replace('_', '-')}", str(value))
    ]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "policy"
        places = ["--out", str(out), "--run", str(Path(folder) / "run"), "--force"]
        started = time.perf_counter()
        subprocess.run(
            [
                *(sys.executable, "-m", "training", "train", recipe),
                *("--seed", str(seed), *flags, *places),
            ],
            cwd=ROOT,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        seconds = time.perf_counter() - started
        manifest = bundle.read(out).manifest

    scenarios = manifest.robustness.scenarios
    recovery = next(each for each in scenarios if each.name == "recovery")
    worst = min(
        (each for each in scenarios if each.is_required and each.lqr_success_rate),
        key=lambda each: each.success_rate / each.lqr_success_rate,
    )
    gate = "passed" if manifest.gate.passed else "; ".join(manifest.gate.failures)
    print(
        f"| {name} | {manifest.gate.name}: {gate} | {manifest.evaluation.mean:.1f} of"
        f" {manifest.environment.max_episode_steps}"
        f" | {recovery.success_rate:.3f}, {recovery.lqr_success_rate:.3f}"
        f" | {worst.name}: {worst.success_rate:.3f}, LQR {worst.lqr_success_rate:.3f}"
        f" | {seconds:.0f} |",
        flush=True,
    )
    return manifest.gate.passed


if __name__ == "__main__":
    main()
