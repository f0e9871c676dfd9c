import io
from pathlib import Path

import pytest
from PIL import Image
from pyarrow import parquet

from training.recipes import RECIPES
from training.sweep import results
from training.sweep.plan import Sweep, new_id, now
from training.sweep.ranges import Range, Search
from training.sweep.reporting.report import PAGE, write_report
from training.sweep.results import Row
from training.sweep.search import BEST, RECIPE, SEARCHED
from training.sweep.storage import Storage
from training.sweep.trials import Changes, Trial, seed_trials

VARIATIONS: list[tuple[str, Changes]] = [("the whole recipe", {}), ("no mirror", {"mirror": False})]


def sweep(**changes: object) -> Sweep:
    values = {
        "id": new_id(),
        "created": now(),
        "kind": "ablation",
        "recipe": "robust",
        "changes": {},
        "trials": seed_trials(VARIATIONS, range(4)),
        "code": "any",
        **changes,
    }
    return Sweep.model_validate(values)


def row(of: Sweep, trial: Trial, rate: float, **changes: object) -> Row:
    values = {
        **results.row_without_policy(of, trial, results.DONE, reason=""),
        "passed": rate > 0.5,
        "gate_failures": "",
        "mean_rate": rate,
        "least_ratio": rate,
        "validation_score": rate,
        "steps": 1000,
        "train_seconds": 60.0,
        "evaluation_seconds": 5.0,
        results.rate_column("nominal"): rate,
        results.rate_column("delay 1"): rate / 2,
        results.lqr_column("nominal"): 1.0,
        results.lqr_column("delay 1"): 0.9,
        "processor": "A",
        **changes,
    }
    return Row(values)  # type: ignore[arg-type]  # numbers and texts by name


def report(storage: Storage, of: Sweep, rows: list[Row]) -> str:
    for each in rows:
        storage.write(f"rows/{each['trial']:06d}.json", results.to_json(each))
    write_report(storage, of)
    page = storage.read(PAGE)
    assert page is not None
    return page.decode()


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path))


def ablation(storage: Storage) -> str:
    begun = sweep()
    rates = {"the whole recipe": 0.9, "no mirror": 0.6}
    rows = [row(begun, each, rates[each.variation] + each.seed / 100) for each in begun.trials]
    return report(storage, begun, rows)


def test_an_ablation_says_of_each_row_what_it_shows(storage: Storage) -> None:
    page = ablation(storage)
    assert "8 of 8 trials have ended: 8 passed their gate, 0 did not, 0 failed." in page
    assert "Together they took 8 min 40 s of training and evaluation, on A." in page
    line = next(each for each in page.splitlines() if each.startswith("| no mirror | 4"))
    assert "| 4 of 4 | 0.615 [0.605, 0.625] |" in line
    assert line.split("|")[6].endswith(": worse ")
    assert "| nominal | 0.915 [" in page
    assert page.splitlines()[-1] == "![scenarios](scenarios.png)"


def test_the_table_has_every_hyperparameter_of_every_trial(storage: Storage) -> None:
    ablation(storage)
    content = storage.read(results.TABLE)
    assert content is not None
    rows = parquet.read_table(io.BytesIO(content)).to_pylist()
    assert len(rows) == 8
    assert [each["hyperparameter: mirror"] for each in rows[:2]] == [True, False]
    robust = RECIPES["robust"].model_dump(mode="json")
    start = "hyperparameter: domain_randomization.start"
    assert rows[0][start] == robust["domain_randomization"]["start"]


def test_pictures_can_be_seen(storage: Storage) -> None:
    ablation(storage)
    for name in ("success_by_seed.png", "scenarios.png"):
        content = storage.read(name)
        assert content is not None
        with Image.open(io.BytesIO(content)) as picture:
            assert picture.width > 300


def test_the_same_rows_give_the_same_report(storage: Storage) -> None:
    ablation(storage)
    before = [storage.read(name) for name in (PAGE, "success_by_seed.png", "scenarios.png")]
    ablation(storage)
    assert [storage.read(name) for name in (PAGE, "success_by_seed.png", "scenarios.png")] == before


def test_a_trial_that_failed_is_told_with_its_reason(storage: Storage) -> None:
    begun = sweep()
    failed = results.row_without_policy(
        begun, begun.trials[1], results.FAILED, reason="OSError: no room"
    )
    page = report(storage, begun, [row(begun, begun.trials[0], 0.9), failed])
    assert "2 of 8 trials have ended: 1 passed their gate, 0 did not, 1 failed." in page
    assert "- trial 1, seed 0: OSError: no room" in page


def test_results_of_different_processors_are_told(storage: Storage) -> None:
    begun = sweep()
    rows = [row(begun, begun.trials[n], 0.9, processor=kind) for n, kind in enumerate("AB")]
    assert "Weights differ between kinds of processors" in report(storage, begun, rows)


def test_a_search_shows_its_best_and_compares_it_with_the_recipe(storage: Storage) -> None:
    search = Search(trials=3, hyperparameters={"gamma": Range(low=0.9, high=0.999)}, seeds=(0, 1))
    begun = sweep(kind="search", trials=(), search=search)
    rows = [
        row(begun, Trial(number=n, variation=SEARCHED, seed=9, changes={"gamma": gamma}), rate)
        for n, gamma, rate in ((1, 0.9, 0.2), (2, 0.99, 0.8), (3, 0.95, 0.6))
    ]
    rows += [
        row(begun, Trial(number=4 + n, variation=name, seed=n // 2), rate)
        for n, (name, rate) in enumerate([(RECIPE, 0.5), (BEST, 0.52)] * 2)
    ]
    page = report(storage, begun, rows)
    best = [each for each in page.splitlines() if each.startswith(("| 1 |", "| 2 |", "| 3 |"))]
    assert [each[:4] for each in best] == ["| 2 ", "| 3 ", "| 1 "]
    assert "| 0.8 | 1,000 | 0.99 |" in best[0]
    assert "| the best of the search | 2 | 2 of 2 |" in page
    assert storage.read("parallel_coordinates.png") is not None


def test_without_a_row_there_is_no_report(storage: Storage) -> None:
    assert write_report(storage, sweep()) == []
