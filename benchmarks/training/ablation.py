"""The robust recipe without each of its ingredients, one at a time, and its robustness then.

python -m benchmarks.training.ablation (a minute a row on one core)
"""

import argparse
import os

import torch

from training.evaluation.robustness import evaluate_robustness
from training.evaluation.runtimes import from_network
from training.recipes import recipe
from training.train import train

WITHOUT: dict[str, dict[str, object]] = {
    "the whole recipe": {},
    "no advantage learning (α 0)": {"advantage": 0.0},
    "no far starts (±0.05)": {"domain_randomization.start": (0.05, 0.05, 0.05, 0.05)},
    "no pushes": {"domain_randomization.push_chance": 0.0},
    "no price of a fall (reward 1 - cost instead)": {"reward.alive": 1.0, "reward.fall": None},
    "no cost of being off the middle (0 a step, -20 a fall)": {
        "reward.position": 0.0,
        "reward.velocity": 0.0,
        "reward.angle": 0.0,
        "reward.angular_velocity": 0.0,
    },
    "no scale of the angle": {"scale": (1.0, 1.0, 1.0, 1.0)},
    "no squared loss (Huber, δ 1)": {"huber_delta": 1.0},
    "no averaged weights": {"weight_ema": 0.0},
    "no mirror": {"mirror": False},
    "one agent": {"agents": 1},
    "24×24 instead of 64×64": {"hidden": (24, 24)},
    "added: physics drawn (force 2…20 N, half length 0.05…1 m, mass 0.01…1 kg)": {
        "domain_randomization.force": (2.0, 20.0),
        "domain_randomization.half_length": (0.05, 1.0),
        "domain_randomization.pole_mass": (0.01, 1.0),
    },
    "added: noise to 0.1 in half of the episodes": {"domain_randomization.noise": 0.1},
    "added: delay 0…3": {"domain_randomization.delay": 3},
}


def main() -> None:
    """Train each variant, evaluate it, print a row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--core", type=int, default=0, help="the core that everything runs on")
    options = parser.parse_args()
    os.sched_setaffinity(0, {options.core})
    print(
        "| robust recipe, seed "
        + str(options.seed)
        + " | least success rate, by the LQR's | scenarios below 95 % of it |\n| --- | --- | --- |"
    )
    for name, changes in WITHOUT.items():
        run = train(recipe("robust", changes), options.seed, torch.device("cpu"))
        scenarios = evaluate_robustness(from_network(run.network)).scenarios
        ratios = {
            scenario.name: scenario.success_rate / scenario.lqr_success_rate
            for scenario in scenarios
        }
        below = (
            ", ".join(
                f"{scenario} {ratio:.3f}" for scenario, ratio in ratios.items() if ratio < 0.95
            )
            or "none"
        )
        print(f"| {name} | {min(ratios.values()):.3f} | {below} |", flush=True)


if __name__ == "__main__":
    main()
