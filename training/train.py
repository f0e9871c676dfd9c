"""Training from its start, or from a checkpoint, to its end."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext

import torch

from training.checkpoints import CheckpointError, Checkpoints, Identity
from training.dqn.trainer import DQNTrainer
from training.population.trainer import PopulationTrainer
from training.population.validators import Validator, ValidatorProcess
from training.recipes import AnyRecipe, BaselineRecipe, PopulationRecipe
from training.seeding import TRAINING_SEEDS, check_seed
from training.trainer import OnProgress, Run, Trainer


def trainer_for(
    recipe: AnyRecipe, seed: int, device: torch.device, validator: Validator | None = None
) -> Trainer:
    """Return the trainer of a recipe, at its start, which validates by itself or by a validator.

    Raises `ValueError` for a seed that is reserved for validation or evaluation.
    """
    check_seed(seed, TRAINING_SEEDS, "training")
    torch.set_num_threads(1)  # for networks this small more threads are slower
    if isinstance(recipe, BaselineRecipe):
        return DQNTrainer(recipe, seed, device)
    return PopulationTrainer(recipe, seed, device, validator)


def train(
    recipe: AnyRecipe,
    seed: int,
    device: torch.device,
    *,
    checkpoints: Checkpoints | None = None,
    validate_beside: bool = False,
    on_progress: OnProgress = lambda _: None,
    on_lost_checkpoint: Callable[[CheckpointError], None] = lambda _: None,
    interrupted: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.monotonic,
) -> Run:
    """Train by a recipe.

    On the CPU the same recipe and seed give the same weights, bit for bit, on the same machine.
    With `validate_beside` a process of its own validates the agents while these learn, which is
    faster where there is a core for it, and changes no weight. A recipe that may end with any check
    validates by itself all the same.

    With `checkpoints`, which must have been entered, training goes on from the newest one, if there
    is one, and writes new ones on its way and at its end. One that cannot be written does not end
    the training: `on_lost_checkpoint` is called. It ends early, and keeps what it learned, once
    `interrupted` returns true.

    Raises `ValueError` for a seed that is reserved for validation or evaluation, and
    `CheckpointError` for a checkpoint that is torn or of another run.
    """
    with _validator(recipe, is_beside=validate_beside) as validator:
        trainer = trainer_for(recipe, seed, device, validator)
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


def _validator(recipe: AnyRecipe, *, is_beside: bool) -> AbstractContextManager[Validator | None]:
    if not isinstance(recipe, PopulationRecipe) or recipe.model_selection != "best":
        return nullcontext()
    return closing(ValidatorProcess(recipe.plant)) if is_beside else nullcontext()


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
