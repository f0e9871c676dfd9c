"""The robust recipe without each of its ingredients, one at a time, and its robustness then.

python -m benchmarks.training.ablation --seeds 5 (half a minute a seed and row on one core)
"""

import argparse
import os
import statistics

import torch

from training.evaluation.robustness import evaluate_robustness
from training.evaluation.runtimes import from_network
from training.recipes import recipe
from training.train import train

WITHOUT: dict[str, dict[str, object]] = {
    "the whole recipe": {},
    "agents that learn side by side, no ensemble": {"ensemble": False, "batch_size": 128},
    "no limits of the states": {"limits": None},
    "no far starts (±0.05)": {"domain_randomization.start": (0.05, 0.05, 0.05, 0.05)},
    "no pushes": {"domain_randomization.push_chance": 0.0},
    "no advantage learning (α 0)": {"advantage": 0.0},
    "a fall at -5": {"reward.fall": -5.0},
    "no cost of being off the middle": {
        "reward.position": 0.0,
        "reward.velocity": 0.0,
        "reward.angular_velocity": 0.0,
    },
    "an angular velocity that costs less (0.018)": {"reward.angular_velocity": 0.018},
    "no scale of the angle": {"scale": (1.0, 1.0, 1.0, 1.0)},
    "no averaged weights": {"weight_ema": 0.0},
    "no mirror": {"mirror": False},
    "minibatches of 128": {"batch_size": 128},
    "half of the steps": {"steps": 128_000, "epsilon_steps": 64_000, "eval_frequency": 500},
    "one agent": {"agents": 1},
}


def main() -> None:
    """Train each variant on each seed, evaluate it, print a row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 0 on")
    parser.add_argument("--core", type=int, default=0, help="the core that everything runs on")
    parser.add_argument("--rows", nargs="*", choices=tuple(WITHOUT), help="only these")
    options = parser.parse_args()
    os.sched_setaffinity(0, {options.core})
    print(
        "| robust recipe | seeds | recovery, median [least, most]"
        " | largest shortfall to the LQR, and where |\n| --- | --- | --- | --- |"
    )
    for name in options.rows or WITHOUT:
        recoveries, shortfalls = [], []
        for seed in range(options.seeds):
            run = train(recipe("robust", WITHOUT[name]), seed, torch.device("cpu"))
            scenarios = evaluate_robustness(from_network(run.network)).scenarios
            recoveries += [
                scenario.success_rate for scenario in scenarios if scenario.name == "recovery"
            ]
            shortfalls += [
                (scenario.lqr_success_rate - scenario.success_rate, scenario.name)
                for scenario in scenarios
            ]
        shortfall, scenario_name = max(shortfalls)
        print(
            f"| {name} | {options.seeds} | {statistics.median(recoveries):.3f}"
            f" [{min(recoveries):.3f}, {max(recoveries):.3f}]"
            f" | {max(shortfall, 0):.3f}, {scenario_name} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
