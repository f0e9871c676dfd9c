"""What a search searches: ranges of hyperparameters, as a TOML file has them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, JsonValue, ValidationError, model_validator

from training.recipes import RecipeError, recipe
from training.sweep.trials import Changes, Part, SweepError, from_toml, problem_of, read_tables


def _choices_from_toml(choices: tuple[JsonValue, ...]) -> tuple[JsonValue, ...]:
    return tuple(map(from_toml, choices))


class Range(Part):
    """Where a hyperparameter is sought: between two bounds, or among some values."""

    low: int | float | None = None
    high: int | float | None = None
    log: bool = False  # as many trials between 1 and 10 as between 10 and 100
    choices: Annotated[tuple[JsonValue, ...], AfterValidator(_choices_from_toml)] = ()

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        if self.choices:
            if self.low is not None or self.high is not None or self.log:
                raise ValueError("has choices, and so no low, high or log")
            return self
        if self.low is None or self.high is None:
            raise ValueError("expected { low = …, high = … } or { choices = [ … ] }")
        if self.low >= self.high:
            raise ValueError(f"is empty: low is {self.low}, and high {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"has no logarithm: low is {self.low}")
        return self

    @property
    def ends(self) -> tuple[JsonValue, ...]:
        """Values of which each must be allowed, so that all are."""
        return self.choices or (self.low, self.high)


class Search(Part):
    """What is searched, and how."""

    trials: int = Field(30, ge=1)
    sampler: Literal["tpe", "random"] = "tpe"
    scheduler: Literal["asha", "none"] = "asha"
    grace_percent: int = Field(25, ge=1, le=99)  # of its steps, before ASHA may end a trial
    sampler_seed: int = Field(0, ge=0, lt=2**31)
    training_seed: int = Field(1_000_000, ge=0, lt=2**31)  # of all trials of the search
    hyperparameters: dict[str, Range] = Field(min_length=1)
    seeds: tuple[int, ...] = ()  # with which the best is trained anew, beside the recipe


def read_search(path: Path, name: str, changes: Changes, seeds: Sequence[int]) -> Search:
    """Return the search of a file over a recipe's hyperparameters.

    Raises `SweepError` for what is no search, and for ranges beyond what the recipe allows.
    """
    try:
        search = Search.model_validate({**read_tables(path), "seeds": tuple(seeds)})
    except ValidationError as error:
        raise SweepError(f"{path}: {problem_of(error)}") from error
    for hyperparameter, values in search.hyperparameters.items():
        for value in values.ends:
            try:
                recipe(name, {**changes, hyperparameter: value})
            except RecipeError as error:
                raise SweepError(f"{path}: {error}") from error
    if search.training_seed in seeds:
        raise SweepError(
            f"{path}: training_seed {search.training_seed} is one of --seeds: what a search has"
            " chosen by a seed must be judged by others"
        )
    return search
