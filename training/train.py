"""Training from its start, or from a checkpoint, to its end: a recipe and a seed in, a run out."""

import time
from collections.abc import Callable

import torch

from training import seeding as seeds
from training.dqn.trainer import BaselineTrainer
from training.checkpoints import Checkpoints
from training.recipes import AnyRecipe, BaselineRecipe
from training.trainer import Report, Run, Trainer
from training.population.trainer import PopulationTrainer


def trainer_for(recipe: AnyRecipe, seed: int, device: torch.device) -> Trainer:
    """Return the trainer of a recipe, at its start. Raises `ValueError` for a seed that belongs to the evaluations."""
    seeds.check(seed, seeds.TRAINING, "training")
    torch.set_num_threads(1)  # for networks this small more threads are slower
    if isinstance(recipe, BaselineRecipe):
        return BaselineTrainer(recipe, seed, device)
    return PopulationTrainer(recipe, seed, device)


def train(
    recipe: AnyRecipe,
    seed: int,
    device: torch.device,
    *,
    checkpoints: Checkpoints | None = None,
    report: Report = lambda _: None,
    interrupted: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.monotonic,
) -> Run:
    """Train by a recipe. On the CPU the same recipe and seed give the same weights, bit for bit, on the same machine.

    With `checkpoints`, entered, it goes on from the newest one, if there is one, and keeps new ones on its way and at its end. Training
    ends early, and keeps what it learned, once `interrupted` answers true. Raises `ValueError` for a seed of the evaluations, and
    `CheckpointError` for a checkpoint that is torn or of another run.
    """
    trainer = trainer_for(recipe, seed, device)
    before = 0.0
    if checkpoints is not None and (saved := checkpoints.newest()) is not None:
        snapshot, before = saved
        trainer.restore(snapshot)
    started = clock()

    def seconds() -> float:
        return before + clock() - started

    while trainer.stopped is None and not interrupted():
        report(trainer.advance(seconds))
        if checkpoints is not None:
            checkpoints.offer(trainer, seconds())
    if checkpoints is not None and trainer.steps:
        checkpoints.write(trainer, seconds())
    return run_of(trainer, recipe, seed, device.type, seconds())


def run_of(trainer: Trainer, recipe: AnyRecipe, seed: int, device: str, seconds: float) -> Run:
    """Return what a trainer has so far as a run; one that has not stopped was interrupted."""
    stopped = trainer.stopped or "interrupted"
    return Run(
        recipe,
        seed,
        device,
        trainer.network,
        trainer.history,
        trainer.steps,
        seconds,
        stopped,
        trainer.states_seen(),
    )
