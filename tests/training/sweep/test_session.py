from pathlib import Path

import pytest

from training.sweep import results, session
from training.sweep.plan import Sweep, code_digest, new_id, now
from training.sweep.ranges import Range, Search
from training.sweep.search import SEARCHED
from training.sweep.storage import Storage
from training.sweep.trial import SWEEP
from training.sweep.trials import SweepError, Trial, seed_trials


def sweep(seeds: int = 3, **changes: object) -> Sweep:
    values = {
        "id": new_id(),
        "created": now(),
        "kind": "seeds",
        "recipe": "quick",
        "changes": {},
        "trials": seed_trials([("", {})], range(seeds)),
        "code": code_digest(),
        **changes,
    }
    return Sweep.model_validate(values)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "sweep"))


def keep_row(storage: Storage, begun: Sweep, number: int, status: str) -> None:
    trial = begun.trials[number]
    row = results.row_without_policy(begun, trial, status, reason="")
    storage.write(results.path_of(trial), results.to_json(row))


def test_a_sweep_is_gone_on_with_only_where_that_is_asked_for(storage: Storage) -> None:
    begun = session.begin(storage, sweep(), resume=False)
    with pytest.raises(SweepError, match="holds a sweep already; --resume goes on with it"):
        session.begin(storage, sweep(), resume=False)
    assert session.begin(storage, sweep(), resume=True) == begun


def test_a_driver_that_is_always_started_with_resume_begins_where_there_is_nothing(
    storage: Storage,
) -> None:
    assert session.begin(storage, sweep(), resume=True).trials


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seeds": 4}, "of 3 trials, and these 4 are not the same"),
        ({"recipe": "robust"}, "its recipe is 'quick', and not 'robust'"),
        ({"changes": {"steps": 3}}, "its changes is {}, and not {'steps': 3}"),
        ({"code": "other"}, "the code that trains was another"),
    ],
)
def test_another_sweep_is_told_by_what_differs(
    storage: Storage, changes: dict[str, object], named: str
) -> None:
    session.begin(storage, sweep(), resume=False)
    with pytest.raises(SweepError) as error:
        session.begin(storage, sweep(**changes), resume=True)  # type: ignore[arg-type]  # by name
    assert named in str(error.value)


def test_a_folder_with_other_things_is_no_place_for_a_sweep(storage: Storage) -> None:
    storage.write("letters.txt", b"mine")
    with pytest.raises(SweepError, match=r"holds files but no sweep \(letters.txt\)"):
        session.begin(storage, sweep(), resume=True)


def test_a_sweep_of_another_release_is_told(storage: Storage) -> None:
    storage.write(SWEEP, b'{"schema_version": 9}')
    with pytest.raises(SweepError, match="is none of this release"):
        session.read(storage)


def test_trials_that_failed_are_run_again_and_those_that_ended_are_not(storage: Storage) -> None:
    begun = session.begin(storage, sweep(), resume=False)
    keep_row(storage, begun, 0, results.DONE)
    keep_row(storage, begun, 1, results.FAILED)
    assert not session.is_complete(storage, begun)
    assert [trial.number for trial in session.remaining(storage, begun)] == [1, 2]
    keep_row(storage, begun, 2, results.DONE)
    assert session.is_complete(storage, begun)
    assert session.has_work(storage, begun)  # the one that failed
    keep_row(storage, begun, 1, results.DONE)
    assert not session.has_work(storage, begun)


def test_what_a_search_has_found_is_compared_only_once_it_has_ended(storage: Storage) -> None:
    search = Search(trials=2, hyperparameters={"gamma": Range(low=0.9, high=0.99)}, seeds=(0, 1))
    begun = session.begin(storage, sweep(kind="search", trials=(), search=search), resume=False)

    def end(number: int, gamma: float) -> None:
        trial = Trial(number=number, variation=SEARCHED, seed=9, changes={"gamma": gamma})
        row = results.row_without_policy(
            begun, trial, results.DONE, reason="", validation_score=gamma
        )
        storage.write(results.path_of(trial), results.to_json(row))

    end(1, 0.95)  # the driver is interrupted here
    assert session.remaining(storage, begun) == []
    assert not session.is_complete(storage, begun)
    end(2, 0.97)
    assert [trial.changes for trial in session.remaining(storage, begun)] == [
        {},
        {"gamma": 0.97},
    ] * 2
    assert session.size_of(begun) == 6


def test_a_hyperparameter_that_a_row_gets_wrong_is_found_before_any_trial_is_run() -> None:
    trials = seed_trials([("good", {}), ("bad", {"gamma": 2.0})], [0])
    with pytest.raises(SweepError, match="bad: gamma: "):
        session.check_recipes(sweep(trials=trials))
