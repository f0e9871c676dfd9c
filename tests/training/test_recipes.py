import pytest

from training.recipes import RECIPES, PopulationRecipe, RecipeError, recipe


def test_baseline_is_the_seeds_recipe_fact_by_fact() -> None:
    assert RECIPES["baseline"].model_dump() == {
        "name": "baseline",
        "gate": "tutorial",
        "hidden": (24, 24),
        "buffer_size": 2000,
        "batch_size": 64,
        "train_frequency": 4,
        "gamma": 0.99,
        "learning_rate": 0.0025,
        "epsilon_start": 1.0,
        "epsilon_decay": 0.9995,
        "epsilon_min": 0.001,
        "failure_reward": -10.0,
        "truncation_is_terminal": True,
        "episodes": 5000,
        "stop_window": 10,
        "stop_mean": 450.0,
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", -0.1),
        ("learning_rate", 0),
        ("learning_rate", float("nan")),
        ("batch_size", 2000),
        ("batch_size", 0),
        ("buffer_size", 0),
        ("gamma", 1.5),
        ("epsilon_start", 2),
        ("epsilon_min", 1.1),
        ("epsilon_decay", 0),
        ("hidden", ()),
        ("hidden", (24, 0)),
        ("episodes", 0),
        ("train_frequency", 0),
        ("failure_reward", float("inf")),
        ("stop_window", 0),
    ],
)
def test_hyperparameter_outside_its_range_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(RecipeError, match=name):
        recipe("baseline", {name: value})


def test_epsilon_that_would_rise_is_refused() -> None:
    with pytest.raises(RecipeError, match="epsilon_min"):
        recipe("baseline", {"epsilon_start": 0.1, "epsilon_min": 0.5})


def test_unknown_names_are_refused() -> None:
    with pytest.raises(RecipeError, match="cleverness"):
        recipe("baseline", {"cleverness": 1})
    with pytest.raises(RecipeError, match=r"nobody.*baseline"):
        recipe("nobody", {})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("agents", 0),
        ("steps", -1),
        ("learning_starts", 30_000),
        ("epsilon_end", 1.5),
        ("gamma", 1.0),
        ("tau", 0),
        ("limits", (2.4, 9, 0, 9)),
        ("model_selection", "last"),
        ("domain_randomization.noise", -1),
        ("domain_randomization.delay", 5),
        ("domain_randomization.force", (0, 1)),
        ("domain_randomization.nominal", 2),
    ],
)
def test_population_hyperparameter_outside_its_range_is_refused_by_name(
    name: str, value: object
) -> None:
    with pytest.raises(RecipeError, match=name):
        recipe("quick", {name: value})


def test_a_hyperparameter_of_another_way_of_training_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"tau: recipe baseline has no such"):
        recipe("baseline", {"tau": 0.1})
    with pytest.raises(RecipeError, match=r"domain_randomization\.luck"):
        recipe("quick", {"domain_randomization.luck": 1})


def test_a_part_of_a_hyperparameter_is_changed_alone() -> None:
    changed = recipe("quick", {"domain_randomization.noise": 0.05})
    assert isinstance(changed, PopulationRecipe)
    assert changed.domain_randomization.noise == 0.05
    assert changed.domain_randomization.force == PopulationRecipe().domain_randomization.force
