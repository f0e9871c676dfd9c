"""The population on a GPU: updates times agents per second, as a CUDA graph and call by call, and one whole `default` training.

    python -m benchmarks.training.cuda

Without a CUDA device it times the CPU alone and says so.
"""

import platform
import time
from collections.abc import Callable
from importlib.metadata import version

import numpy as np
import torch

from training.network import device
from training.population.q_networks import Population, captured
from training.recipes import PopulationRecipe
from training.train import train

AGENTS = (1, 64, 1_024, 16_384)
SECONDS = 2.0


def main() -> None:
    """Measure and print a table."""
    where = device("auto")
    name = (
        torch.cuda.get_device_name()
        if where.type == "cuda"
        else f"none here; CPU {platform.processor() or platform.machine()}, one thread"
    )
    print(f"CUDA device: {name}; torch {version('torch')}\n")
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    print(
        "| agents | way | updates per second | updates × agents per second |\n| --- | --- | --- | --- |"
    )
    for agents in AGENTS:
        for way in (
            ("cpu",) if where.type == "cpu" else ("cpu", "cuda, call by call", "cuda, one graph")
        ):
            population = _population(agents, way.split(",")[0])
            rate = _rate(
                captured(population) if way.endswith("graph") else population.learn, way != "cpu"
            )
            print(f"| {agents:,} | {way} | {rate:,.0f} | {rate * agents:,.0f} |", flush=True)
    run = train(PopulationRecipe(), 0, where)
    print(
        f"\nOne `default` training on {where.type}: {run.stopped} after {run.steps:,} steps, {run.seconds:.2f} s"
    )


def _population(agents: int, where: str) -> Population:
    recipe, rng = PopulationRecipe(), np.random.default_rng(0)
    population = Population(
        agents,
        recipe.hidden,
        recipe.batch_size,
        rng,
        learning_rate=1e-3,
        polyak=recipe.tau,
        device=where,
    )
    batch = population.minibatch
    for tensor in (batch.states, batch.rewards):
        tensor.normal_()
    batch.actions.random_(0, 2)
    batch.discounts.fill_(recipe.gamma)
    return population


def _rate(learn: Callable[[], None], on_gpu: bool) -> float:
    """Return calls per second, over about two seconds after a warm-up."""

    def timed(count: int) -> float:
        started = time.perf_counter()
        for _ in range(count):
            learn()
        if on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter() - started

    timed(3)
    count = max(1, int(SECONDS / (timed(5) / 5)))
    return count / timed(count)


if __name__ == "__main__":
    main()
