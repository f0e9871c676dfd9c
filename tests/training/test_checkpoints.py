"""Stop and resume equals never stopping, bit for bit.

What is not a checkpoint of this run is refused by name.
"""

import hashlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from tests.support.project import ROOT
from training.checkpoints import CheckpointError, Checkpoints, Identity, numbered, read
from training.recipes import BaselineRecipe, PopulationRecipe, recipe
from training.snapshot import Snapshot
from training.train import train, trainer_for
from training.trainer import Run

CPU = torch.device("cpu")
RECIPES = {
    "baseline": recipe("baseline", {"episodes": 60}),
    "quick": recipe(
        "quick",
        {"agents": 3, "steps": 1_500, "eval_frequency": 100, "n_step": 3, "weight_ema": 0.01},
    ),
    "randomized": recipe(
        "quick",
        {
            "agents": 2,
            "steps": 1_200,
            "eval_frequency": 100,
            "model_selection": "best",
            "mirror": True,
            "domain_randomization.nominal": 0.2,
            "domain_randomization.noise": 0.1,
            "domain_randomization.delay": 3,
            "domain_randomization.push": 1.0,
            "domain_randomization.push_chance": 0.05,
            "domain_randomization.force": (2.0, 20.0),
        },
    ),
    # Stopped between two checks, too.
    "robust": recipe(
        "robust",
        {
            "agents": 2,
            "num_envs": 4,
            "hidden": (16, 16),
            "steps": 2_000,
            "eval_frequency": 300,
            "buffer_size": 3_000,
            "learning_starts": 200,
        },
    ),
}

Chosen = BaselineRecipe | PopulationRecipe


def checkpoints_of(folder: Path, chosen: Chosen, seed: int = 0, **options: float) -> Checkpoints:
    return Checkpoints(
        folder,
        Identity.of(chosen, seed, "cpu"),
        every=options.get("every", 0.0),
        keep=int(options.get("keep", 3)),
    )


def stop_after(count: int, folder: Path, chosen: Chosen) -> None:
    """Train until `count` reports came, and stop there."""
    reports: list[object] = []
    with checkpoints_of(folder, chosen) as checkpoints:
        train(
            chosen,
            0,
            CPU,
            checkpoints=checkpoints,
            on_progress=reports.append,
            interrupted=lambda: len(reports) >= count,
        )


def to_the_end(folder: Path, chosen: Chosen) -> Run:
    with checkpoints_of(folder, chosen) as checkpoints:
        return train(chosen, 0, CPU, checkpoints=checkpoints)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("count", [1, 4])
def test_stop_and_resume_equals_never_stopping(tmp_path: Path, name: str, count: int) -> None:
    chosen = RECIPES[name]
    whole = to_the_end(tmp_path / "whole", chosen)
    stop_after(count, tmp_path / "parts", chosen)
    stop_after(count, tmp_path / "parts", chosen)
    resumed = to_the_end(tmp_path / "parts", chosen)
    for key, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, resumed.network.state_dict()[key])
    assert (whole.steps, whole.stopped, whole.state_summary) == (
        resumed.steps,
        resumed.stopped,
        resumed.state_summary,
    )
    untimed = [
        [{key: value for key, value in row.items() if key != "seconds"} for row in run.history]
        for run in (whole, resumed)
    ]
    assert untimed[0] == untimed[1]
    ends = [read(tmp_path / folder)[1].flatten() for folder in ("whole", "parts")]
    assert ends[0].values == ends[1].values
    for key, array in ends[0].arrays.items():
        if key != "history":  # it holds seconds
            np.testing.assert_array_equal(array, ends[1].arrays[key])


def test_resumed_seconds_go_on_from_those_before(tmp_path: Path) -> None:
    chosen = RECIPES["baseline"]
    times = iter(range(1_000_000))

    def clock() -> float:
        return next(times)

    reports: list[object] = []
    with checkpoints_of(tmp_path, chosen) as checkpoints:
        stop = 5
        first = train(
            chosen,
            0,
            CPU,
            checkpoints=checkpoints,
            on_progress=reports.append,
            interrupted=lambda: len(reports) >= stop,
            clock=clock,
        )
        second = train(chosen, 0, CPU, checkpoints=checkpoints, clock=clock)
    assert second.seconds > first.seconds > 5


def test_two_trainings_never_write_to_one_folder(tmp_path: Path) -> None:
    with (
        checkpoints_of(tmp_path, RECIPES["baseline"]),
        pytest.raises(CheckpointError, match="another training"),
    ):
        checkpoints_of(tmp_path, RECIPES["baseline"]).__enter__()


def test_a_folder_that_cannot_be_written_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"file/run: cannot be written"):
        checkpoints_of(tmp_path / "file" / "run", RECIPES["baseline"]).__enter__()


def test_training_that_is_interrupted_before_it_began_keeps_nothing(tmp_path: Path) -> None:
    for name in ("baseline", "quick"):
        with checkpoints_of(tmp_path, RECIPES[name]) as checkpoints:
            run = train(RECIPES[name], 0, CPU, checkpoints=checkpoints, interrupted=lambda: True)
        assert (run.steps, run.stopped) == (0, "interrupted")
        assert numbered(tmp_path) == []


def test_only_the_last_checkpoints_are_kept_and_partial_ones_removed(tmp_path: Path) -> None:
    (tmp_path / ".partial-killed").mkdir()
    stop_after(8, tmp_path, RECIPES["baseline"])
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        ".lock",
        "checkpoint-000007",
        "checkpoint-000008",
        "checkpoint-000009",
    ]


@pytest.mark.parametrize("name", ["state.json", "arrays.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "empty", "torn", "changed"])
def test_a_torn_checkpoint_is_refused_by_name(tmp_path: Path, name: str, damage: str) -> None:
    chosen = RECIPES["baseline"]
    stop_after(2, tmp_path, chosen)
    path = numbered(tmp_path)[-1] / name
    content = path.read_bytes()
    match damage:
        case "missing":
            path.unlink()
        case "empty":
            path.write_bytes(b"")
        case "torn":
            path.write_bytes(content[: len(content) // 2])
        case "changed":
            path.write_bytes(content.replace(b"a", b"b"))
    with pytest.raises(CheckpointError, match=r"checkpoint-\d+/(state|arrays).*remove checkpoint-"):
        checkpoints_of(tmp_path, chosen).newest()


def test_arrays_of_a_type_that_numpy_lacks_are_refused_by_name(tmp_path: Path) -> None:
    chosen = RECIPES["baseline"]
    stop_after(2, tmp_path, chosen)
    newest = numbered(tmp_path)[-1]
    content = save({"network": torch.zeros(2, dtype=torch.bfloat16)})
    (newest / "arrays.safetensors").write_bytes(content)
    state = json.loads((newest / "state.json").read_text())
    state["arrays_sha256"] = hashlib.sha256(content).hexdigest()
    (newest / "state.json").write_text(json.dumps(state))
    with pytest.raises(CheckpointError, match=r"arrays\.safetensors: not a part of a checkpoint"):
        checkpoints_of(tmp_path, chosen).newest()


@pytest.mark.parametrize("other", ["recipe", "seed", "device", "processor", "versions"])
def test_a_checkpoint_of_another_run_is_refused_by_what_differs(tmp_path: Path, other: str) -> None:
    chosen = RECIPES["baseline"]
    stop_after(2, tmp_path, chosen)
    identity = Identity.of(chosen, 0, "cpu").model_dump()
    identity[other] = {
        "recipe": RECIPES["quick"].model_dump(),
        "seed": 1,
        "processor": "another",
        "device": "cuda",
        "versions": {"torch": "9"},
    }[other]
    with pytest.raises(CheckpointError, match=f"another run: {other} was"):
        Checkpoints(tmp_path, Identity.model_validate(identity)).newest()


def test_the_trainer_before_and_after_restoring_is_the_same(tmp_path: Path) -> None:
    chosen = RECIPES["randomized"]
    stop_after(2, tmp_path, chosen)
    snapshot = read(tmp_path)[1]
    trainer = trainer_for(chosen, 0, CPU)
    trainer.restore(snapshot)
    again = trainer.snapshot().flatten()
    snapshot = snapshot.flatten()
    assert again.values == snapshot.values
    for key, array in snapshot.arrays.items():
        np.testing.assert_array_equal(array, again.arrays[key])


def test_stop_and_resume_in_the_middle_of_a_check_equals_never_stopping() -> None:
    chosen = RECIPES["robust"]
    whole = trainer_for(chosen, 0, CPU)
    resumed = 0
    while whole.stopped is None:
        whole.advance(lambda: 1.0)
        if whole.snapshot().parts["selection"].integer("pending"):
            flat = whole.snapshot().flatten()
            parts = trainer_for(chosen, 0, CPU)
            parts.restore(Snapshot(flat.arrays, flat.values).unflatten())
            for trainer in (parts, whole):  # the one that goes on begins the check anew
                before = trainer.steps
                while trainer.snapshot().parts["selection"].integer("pending"):
                    trainer.advance(lambda: 1.0)
                assert trainer.steps == before  # no step comes before its end
            ends = [trainer.snapshot().flatten() for trainer in (parts, whole)]
            assert ends[0].values == ends[1].values
            for key, array in ends[0].arrays.items():
                np.testing.assert_array_equal(array, ends[1].arrays[key])
            resumed += 1
    assert resumed > 0


PROGRAM = """
import sys
from pathlib import Path
import torch
from training.checkpoints import Checkpoints, Identity
from training.recipes import recipe
from training.snapshot import Snapshot
from training.train import train

chosen = recipe("quick", {"agents": 4, "steps": 3_000, "eval_frequency": 50})
with Checkpoints(Path(sys.argv[1]), Identity.of(chosen, 0, "cpu"), every=0.02) as checkpoints:
    train(chosen, 0, torch.device("cpu"), checkpoints=checkpoints)
"""


def test_kill_at_any_moment_and_resume_ends_with_the_same_bytes(tmp_path: Path) -> None:
    """The benchmark does this twenty times at random moments, with whole trainings."""

    def start(name: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", PROGRAM, str(tmp_path / name)], cwd=ROOT)

    def newest(name: str) -> str:
        return max((path.name for path in (tmp_path / name).glob("checkpoint-*")), default="")

    assert start("whole").wait() == 0
    for delay in (0.0, 0.013, 0.21):
        before = newest("killed")
        with start("killed") as process:
            while newest("killed") == before:
                assert process.poll() is None
                time.sleep(0.005)
            time.sleep(delay)
            process.kill()
        assert process.returncode == -signal.SIGKILL
    assert start("killed").wait() == 0
    whole, killed = (read(tmp_path / name)[1].flatten() for name in ("whole", "killed"))
    assert whole.values == killed.values
    for key, array in whole.arrays.items():
        if key != "history":  # it holds seconds
            np.testing.assert_array_equal(array, killed.arrays[key])
