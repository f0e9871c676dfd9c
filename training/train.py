"""Training from its start, or from a checkpoint, to its end."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from training.checkpoints import CheckpointError, Checkpoints, Identity
from training.dqn.trainer import DQNTrainer
from training.population.trainer import PopulationTrainer
from training.recipes import AnyRecipe, BaselineRecipe
from training.seeding import TRAINING_SEEDS, check_seed
from training.trainer import OnProgress, Run, Trainer


def trainer_for(recipe: AnyRecipe, seed: int, device: torch.device) -> Trainer:
    """Return the trainer of a recipe, at its start.

    Raises `ValueError` for a seed that is reserved for validation or evaluation.
    """
    check_seed(seed, TRAINING_SEEDS, "training")
    torch.set_num_threads(1)  # for networks this small more threads are slower
    if isinstance(recipe, BaselineRecipe):
        return DQNTrainer(recipe, seed, device)
    return PopulationTrainer(recipe, seed, device)


def train(
    recipe: AnyRecipe,
    seed: int,
    device: torch.device,
    *,
    checkpoints: Checkpoints | None = None,
    on_progress: OnProgress = lambda _: None,
    on_lost_checkpoint: Callable[[CheckpointError], None] = lambda _: None,
    interrupted: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.monotonic,
) -> Run:
    """Train by a recipe.

    On the CPU the same recipe and seed give the same weights, bit for bit, on the same machine.

    With `checkpoints`, which must have been entered, training goes on from the newest one, if there
    is one, and writes new ones on its way and at its end. One that cannot be written does not end
    the training: `on_lost_checkpoint` is called. It ends early, and keeps what it learned, once
    `interrupted` returns true.

    Raises `ValueError` for a seed that is reserved for validation or evaluation, and
    `CheckpointError` for a checkpoint that is torn or of another run.
    """
    trainer = trainer_for(recipe, seed, device)
    seconds_before = 0.0
    if checkpoints is not None and (newest := checkpoints.newest()) is not None:
        snapshot, seconds_before = newest
        trainer.restore(snapshot)
    started = clock()

    def elapsed() -> float:
        return seconds_before + clock() - started

    while trainer.stopped is None and not interrupted():
        on_progress(trainer.advance(elapsed))
        if checkpoints is not None:
            with _losing(on_lost_checkpoint):
                checkpoints.write_if_due(trainer, elapsed())

    seconds = elapsed()  # one number for the run and its checkpoint: a later export is the same
    if checkpoints is not None and trainer.steps:
        with _losing(on_lost_checkpoint):
            checkpoints.write(trainer, seconds)
    identity = (
        Identity.of(recipe, seed, device.type) if checkpoints is None else checkpoints.identity
    )
    return run_of(trainer, identity, seconds)


@contextmanager
def _losing(on_lost_checkpoint: Callable[[CheckpointError], None]) -> Iterator[None]:
    """Call a function where a checkpoint cannot be written, and go on."""
    try:
        yield
    except CheckpointError as error:
        on_lost_checkpoint(error)


def run_of(trainer: Trainer, identity: Identity, seconds: float) -> Run:
    """Return what a trainer has so far as a run; one that has not stopped was interrupted."""
    return Run(
        recipe=identity.recipe,
        seed=identity.seed,
        device=identity.device,
        processor=identity.processor,
        network=trainer.network,
        history=trainer.history,
        steps=trainer.steps,
        seconds=seconds,
        stopped=trainer.stopped or "interrupted",
        state_summary=trainer.state_summary(),
    )
