"""Validation beside learning: the same policy as without, whatever becomes of the other process."""

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.project import ROOT
from tests.support.recipes import small_robust
from training.envs.plant import STANDARD
from training.population.validators import ValidatorProcess
from training.snapshot import Snapshot
from training.train import train, trainer_for
from training.trainer import Trainer

CPU = torch.device("cpu")
SMALL = small_robust(eval_frequency=50)


def finished(trainer: Trainer) -> Trainer:
    while trainer.stopped is None:
        trainer.advance(lambda: 1.0)
    return trainer


@pytest.fixture(scope="module")
def alone() -> Trainer:
    """A training that validated by itself."""
    return finished(trainer_for(SMALL, 0, CPU))


def test_a_process_beside_the_training_changes_neither_policy_nor_history(alone: Trainer) -> None:
    beside = train(SMALL, 0, CPU, validate_beside=True)
    assert len(alone.history) == 4
    assert [{**row, "seconds": 1.0} for row in beside.history] == alone.history
    for name, tensor in alone.network.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), beside.network.state_dict()[name].numpy())


@pytest.mark.parametrize("checks_before", [0, 2])
def test_what_a_killed_process_would_have_validated_is_validated_all_the_same(
    alone: Trainer, checks_before: int
) -> None:
    with closing(ValidatorProcess(STANDARD)) as validator:
        trainer = trainer_for(SMALL, 0, CPU, validator)
        while len(trainer.history) < checks_before:
            trainer.advance(lambda: 1.0)
        os.kill(validator.process_id, signal.SIGKILL)
        finished(trainer)
        assert not validator.is_beside
    assert_equal(trainer.snapshot(), alone.snapshot())


def test_stop_and_resume_while_checks_wait_equals_never_stopping(alone: Trainer) -> None:
    with closing(ValidatorProcess(STANDARD)) as validator:
        stopped = trainer_for(SMALL, 0, CPU, validator)
        while stopped.snapshot().parts["selection"].integer("pending") < 2:
            assert stopped.stopped is None  # learning was faster than the process could start
            stopped.advance(lambda: 1.0)
        flat = stopped.snapshot().flatten()
    resumed = trainer_for(SMALL, 0, CPU)
    resumed.restore(Snapshot(flat.arrays, flat.values).unflatten())
    assert_equal(finished(resumed).snapshot(), alone.snapshot())


def assert_equal(one: Snapshot, another: Snapshot) -> None:
    flat, expected = one.flatten(), another.flatten()
    assert flat.values == expected.values
    for name, array in expected.arrays.items():
        np.testing.assert_array_equal(flat.arrays[name], array)


PROGRAM = """
import time
from training.envs.plant import STANDARD
from training.population.validators import ValidatorProcess
print(ValidatorProcess(STANDARD).process_id, flush=True)
time.sleep(60)
"""


def test_the_process_ends_with_the_one_that_started_it() -> None:
    words = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        validator = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 30
    while is_running(validator):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_running(process_id: int) -> bool:
    """Return whether there is such a process; one that nobody has waited for has ended."""
    try:
        status = Path(f"/proc/{process_id}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"
