"""One trial, without Ray: what it hands on, and what it goes on from."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from models import bundle
from training import checkpoints
from training.checkpoints import CheckpointError
from training.sweep import results
from training.sweep.plan import Evaluation, Sweep, code_digest, new_id, now
from training.sweep.storage import Storage
from training.sweep.trial import SWEEP, TrialError, Work, run_trial, unpack
from training.sweep.trials import Changes, Trial
from training.trainer import Progress

CHANGES: Changes = {"episodes": 30, "stop_mean": 1000.0}


class Killed(BaseException):
    """What stands for a kill: nothing in a trial catches it."""


def begin(tmp_path: Path, changes: Changes = CHANGES, recipe: str = "baseline") -> Work:
    sweep = Sweep(
        id=new_id(),
        created=now(),
        kind="seeds",
        recipe=recipe,
        changes=changes,
        trials=(),
        evaluation=Evaluation(episodes=4, scenario_episodes=2),
        commit="given",
        code=code_digest(),
    )
    Storage(str(tmp_path / "sweep")).write(SWEEP, sweep.model_dump_json().encode())
    return Work(sweep, str(tmp_path / "sweep"), checkpoint_every=0.0001)


def kill_at(share: float) -> Callable[[float, Progress], None]:
    def on_progress(done: float, _: Progress) -> None:
        if done >= share:
            raise Killed

    return on_progress


def silent(_share: float, _progress: Progress) -> None:
    return


TRIAL = Trial(number=3, variation="", seed=7)


def test_a_trial_goes_on_from_the_checkpoint_that_it_handed_on(tmp_path: Path) -> None:
    undisturbed = run_trial(begin(tmp_path / "one"), TRIAL, 1, silent)
    work = begin(tmp_path / "two")
    storage = Storage(work.storage)
    with pytest.raises(Killed):
        run_trial(work, TRIAL, 1, kill_at(0.5))
    assert storage.names("checkpoints") == ["000003.zip"]
    resumed = run_trial(work, TRIAL, 2, silent)
    assert resumed["onnx_sha256"] == undisturbed["onnx_sha256"]
    assert isinstance(resumed["resumed_from_seconds"], float)
    assert resumed["resumed_from_seconds"] > 0
    assert (resumed["attempts"], resumed["steps"]) == (2, undisturbed["steps"])
    assert storage.names("checkpoints") == []


def other_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "processor", lambda: "another")


def test_on_another_kind_of_processor_a_trial_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = begin(tmp_path)
    with pytest.raises(Killed):
        run_trial(work, TRIAL, 1, kill_at(0.5))
    other_processor(monkeypatch)
    row = run_trial(work, TRIAL, 2, silent)
    assert (row["resumed_from_seconds"], row["processor"]) == (0, "another")


def test_it_goes_on_there_if_told_and_both_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = dataclasses.replace(begin(tmp_path), any_processor=True)
    with pytest.raises(Killed):
        run_trial(work, TRIAL, 1, kill_at(0.3))
    here = checkpoints.processor()
    other_processor(monkeypatch)
    with pytest.raises(Killed):
        run_trial(work, TRIAL, 2, kill_at(0.6))
    row = run_trial(work, TRIAL, 3, silent)
    assert row["resumed_from_seconds"] != 0
    assert row["processor"] == f"{here}, then another"


def test_a_trial_that_has_ended_is_not_run_again(tmp_path: Path) -> None:
    work = begin(tmp_path)
    row = run_trial(work, TRIAL, 1, silent)
    assert run_trial(work, TRIAL, 2, kill_at(0.0)) == row


def test_a_trial_that_failed_is_run_again(tmp_path: Path) -> None:
    work = begin(tmp_path)
    failed = results.row_without_policy(work.sweep, TRIAL, results.FAILED, reason="full disk")
    Storage(work.storage).write(results.path_of(TRIAL), results.to_json(failed))
    assert run_trial(work, TRIAL, 1, silent)["status"] == results.DONE


def test_a_policy_that_fails_its_gate_is_a_row_without_a_bundle(tmp_path: Path) -> None:
    work = begin(tmp_path)
    row = run_trial(work, TRIAL, 1, silent)
    assert (row["passed"], row["bundle"]) == (False, None)
    assert "limit" in str(row["gate_failures"])
    assert Storage(work.storage).names("bundles") == []


def test_a_policy_that_passes_is_a_bundle_with_all_of_its_provenance(tmp_path: Path) -> None:
    work = begin(tmp_path, {"stop_mean": 10.0})
    row = run_trial(work, TRIAL, 1, silent)
    written = bundle.read(tmp_path / "sweep" / str(row["bundle"]))
    assert row["passed"]
    assert row["digest"] == written.digest
    assert row["onnx_sha256"] == written.manifest.artifacts["onnx"].sha256
    assert row["processor"] == written.manifest.provenance.processor
    scenarios = written.manifest.robustness.scenarios
    assert [row[results.rate_column(each.name)] for each in scenarios] == [
        each.success_rate for each in scenarios
    ]


def test_a_machine_without_the_sweeps_storage_or_code_is_named(tmp_path: Path) -> None:
    work = begin(tmp_path)
    elsewhere = dataclasses.replace(work, storage=str(tmp_path / "elsewhere"))
    with pytest.raises(TrialError, match="is not the sweep's storage"):
        run_trial(elsewhere, TRIAL, 1, silent)
    other_code = dataclasses.replace(work, sweep=work.sweep.model_copy(update={"code": "other"}))
    with pytest.raises(TrialError, match=r"the code on .* is not the sweep's"):
        run_trial(other_code, TRIAL, 1, silent)


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not an archive of a checkpoint"):
        unpack(b"torn", tmp_path / "checkpoint-000001")
