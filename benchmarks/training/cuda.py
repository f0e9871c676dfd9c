"""The population on a GPU: updates × agents per second, as a CUDA graph and call by call.

Then one whole `quick` training.

    python -m benchmarks.training.cuda

Without a CUDA device it times the CPU alone and says so.
"""

import platform
import time
from collections.abc import Callable
from importlib.metadata import version

import numpy as np
import torch

from training.network import choose_device
from training.population.learner import PopulationLearner, UpdateSettings
from training.population.q_networks import StackedQNetworks
from training.recipes import PopulationRecipe
from training.train import train

AGENTS = (1, 64, 1_024, 16_384)
SECONDS = 2.0


def main() -> None:
    """Measure and print a table."""
    where = choose_device("auto")
    name = (
        torch.cuda.get_device_name()
        if where.type == "cuda"
        else f"none here; CPU {platform.processor() or platform.machine()}, one thread"
    )
    print(f"CUDA device: {name}; torch {version('torch')}\n")
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    print("| agents | mode | updates per second | updates × agents per second |")
    print("| --- | --- | --- | --- |")
    modes = ("cpu",) if where.type == "cpu" else ("cpu", "cuda, call by call", "cuda, one graph")
    for agents in AGENTS:
        for mode in modes:
            learner = _learner(agents, mode.split(",")[0])
            update = learner.captured() if mode.endswith("graph") else learner.update
            rate = _rate(update, mode != "cpu")
            print(f"| {agents:,} | {mode} | {rate:,.0f} | {rate * agents:,.0f} |", flush=True)

    run = train(PopulationRecipe(), 0, where)
    print(
        f"\nOne `quick` training on {where.type}: {run.stopped} after {run.steps:,} steps,"
        f" {run.seconds:.2f} s"
    )


def _learner(agents: int, where: str) -> PopulationLearner:
    """Return a learner whose minibatch is filled at random."""
    recipe = PopulationRecipe()
    networks = StackedQNetworks(agents, recipe.hidden, np.random.default_rng(0), device=where)
    settings = UpdateSettings(recipe.batch_size, learning_rate=1e-3, tau=recipe.tau)
    learner = PopulationLearner(networks, settings)

    batch = learner.minibatch
    for tensor in (batch.states, batch.rewards):
        tensor.normal_()
    batch.actions.random_(0, 2)
    batch.discounts.fill_(recipe.gamma)
    return learner


def _rate(update: Callable[[], None], on_gpu: bool) -> float:
    """Return calls per second, over about two seconds after a warm-up."""

    def timed(count: int) -> float:
        started = time.perf_counter()
        for _ in range(count):
            update()
        if on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter() - started

    timed(3)
    count = max(1, int(SECONDS / (timed(5) / 5)))
    return count / timed(count)


if __name__ == "__main__":
    main()
