from pathlib import Path

import pytest

from training.sweep import results
from training.sweep.ranges import Search, read_search
from training.sweep.results import Row
from training.sweep.search import BEST, RECIPE, SEARCHED, confirmation, ranked
from training.sweep.trials import SweepError

SPEC = """
trials = 3
[hyperparameters]
learning_rate = { low = 1e-4, high = 1e-2, log = true }
n_step = { low = 1, high = 4 }
hidden = { choices = [[16, 16], [32, 32]] }
"""


def search(tmp_path: Path, text: str, seeds: tuple[int, ...] = (0, 1)) -> Search:
    path = tmp_path / "search.toml"
    path.write_text(text)
    return read_search(path, "quick", {}, seeds)


def row(number: int, score: float, steps: int, status: str = results.DONE) -> Row:
    values: Row = {"learning_rate": 0.001 * number, "n_step": number, "hidden": [16, 16]}
    return {
        "trial": number,
        "variation": SEARCHED,
        "status": status,
        "validation_score": score,
        "steps": steps,
        **{results.HYPERPARAMETER + name: value for name, value in values.items()},
    }


def test_a_search_is_read_from_its_file(tmp_path: Path) -> None:
    read = search(tmp_path, SPEC)
    assert (read.trials, read.sampler, read.scheduler, read.seeds) == (3, "tpe", "asha", (0, 1))
    assert read.hyperparameters["learning_rate"].log


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("", "hyperparameters: "),
        ("wrong = { low = 1, high = 2 }", "wrong: recipe quick has no such hyperparameter"),
        ("gamma = { low = 0.9, high = 1.5 }", "gamma: "),
        ("gamma = { low = 0.9, high = 0.9 }", "is empty: low is 0.9, and high 0.9"),
        ("gamma = { low = 0.9 }", "expected"),
        ("gamma = { choices = [] }", "expected"),
        ("gamma = { low = 0.9, high = 0.99, choices = [0.9] }", "has choices"),
        ("advantage = { low = 0.0, high = 0.9, log = true }", "has no logarithm"),
        ("hidden = { choices = [[16, 16], [0]] }", "hidden"),
        ("gamma = 3", "gamma"),
    ],
)
def test_a_range_that_no_trial_could_take_is_refused_before_any_is_run(
    tmp_path: Path, line: str, named: str
) -> None:
    with pytest.raises(SweepError) as error:
        search(tmp_path, f"[hyperparameters]\n{line}\n")
    assert "search.toml: " in str(error.value)
    assert named in str(error.value)


def test_a_search_is_not_judged_by_the_seed_that_it_chose_by(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match="training_seed 1 is one of --seeds"):
        search(tmp_path, f"training_seed = 1\n{SPEC}")


def test_the_best_has_the_highest_score_and_among_equals_the_fewest_steps() -> None:
    rows = [row(1, 1.0, 900), row(2, 1.0, 700), row(3, 0.9, 100)]
    rows.append(row(4, 1.0, 10, results.ENDED_EARLY))  # never trained to its end
    assert [each["trial"] for each in ranked(rows)] == [2, 1, 3]


def test_the_best_is_compared_with_the_recipe_seed_by_seed(tmp_path: Path) -> None:
    trials = confirmation(search(tmp_path, SPEC), [row(1, 0.5, 1), row(2, 0.9, 1)])
    assert [(trial.variation, trial.seed) for trial in trials] == [
        (RECIPE, 0),
        (BEST, 0),
        (RECIPE, 1),
        (BEST, 1),
    ]
    assert trials[1].changes == {"learning_rate": 0.002, "n_step": 2, "hidden": [16, 16]}
    assert len({trial.number for trial in trials} | {1, 2, 3}) == 7  # none is a searched one's


def test_nothing_is_compared_where_a_search_has_found_nothing(tmp_path: Path) -> None:
    assert confirmation(search(tmp_path, SPEC), [row(1, 0.5, 1, results.FAILED)]) == ()
