from pathlib import Path

import pytest

from training.recipes import RECIPES, PopulationRecipe, recipe
from training.sweep.trials import (
    ABLATIONS,
    WHOLE_RECIPE,
    SweepError,
    ablations,
    parse_changes,
    parse_seeds,
    plant_trials,
    read_tables,
    seed_trials,
)


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("0-3", (0, 1, 2, 3)),
        ("7", (7,)),
        ("0,2,5-7", (0, 2, 5, 6, 7)),
        (" 1 - 2 ".replace(" ", ""), (1, 2)),
    ],
)
def test_seeds_are_ranges_and_single_ones(text: str, seeds: tuple[int, ...]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize(
    "text", ["5-2", "", "a", "1-", "-1", "0,0", "0-3,2", "0-2147483648", "1..3"]
)
def test_what_is_no_range_of_seeds_is_refused(text: str) -> None:
    with pytest.raises(SweepError):
        parse_seeds(text)


def test_hyperparameters_are_set_by_values_of_toml() -> None:
    words = ["steps=4000", "hidden=[32, 32]", "mirror=true", "domain-randomization.noise=0.1"]
    words += ['limits="None"']
    assert parse_changes(words) == {
        "steps": 4000,
        "hidden": [32, 32],
        "mirror": True,
        "domain_randomization.noise": 0.1,
        "limits": None,
    }


@pytest.mark.parametrize("word", ["steps", "=3", "model_selection=best"])
def test_what_sets_nothing_is_refused(word: str) -> None:
    with pytest.raises(SweepError):
        parse_changes([word])


def test_every_variation_gets_a_seed_before_any_gets_the_next() -> None:
    trials = seed_trials([("a", {}), ("b", {"steps": 1})], [5, 6])
    assert [(trial.number, trial.variation, trial.seed) for trial in trials] == [
        (0, "a", 5),
        (1, "b", 5),
        (2, "a", 6),
        (3, "b", 6),
    ]


@pytest.mark.parametrize("name", sorted(read_tables(ABLATIONS)))
def test_every_row_of_an_ablation_changes_its_recipe(name: str) -> None:
    rows = ablations(name)
    assert rows[0] == (WHOLE_RECIPE, {})
    for row, changes in rows[1:]:
        assert recipe(name, {**changes}) != RECIPES[name], row


def test_a_recipe_without_an_ablation_is_told() -> None:
    with pytest.raises(SweepError, match="recipe baseline has no rows"):
        ablations("baseline")


def test_a_plant_is_what_its_policy_trains_on(tmp_path: Path) -> None:
    path = tmp_path / "plants.toml"
    path.write_text("[plants.heavy]\npole_mass = 0.3\n[plants.weak]\nforce = 5\n")
    trials = plant_trials(path, [0, 1])
    assert [trial.variation for trial in trials] == ["heavy", "weak", "heavy", "weak"]
    assert [trial.changes for trial in trials[:2]] == [{"plant.pole_mass": 0.3}, {"plant.force": 5}]
    changed = recipe("quick", {**trials[0].changes})
    assert isinstance(changed, PopulationRecipe)
    assert changed.plant.pole_mass == 0.3


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "has no plants"),
        ("plants = 3", "has no plants"),
        ("[plants.a]\nmass = 1", "mass"),
        ("[plants.a]\npole_mass = -1", "pole_mass"),
        ("[plants.a", "no TOML"),
    ],
)
def test_a_file_without_plants_is_refused_by_what_is_wrong(
    tmp_path: Path, text: str, named: str
) -> None:
    path = tmp_path / "plants.toml"
    path.write_text(text)
    with pytest.raises(SweepError, match=named):
        plant_trials(path, [0])


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match=r"nowhere\.toml: cannot be read"):
        plant_trials(tmp_path / "nowhere.toml", [0])
