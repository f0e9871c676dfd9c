"""Recipes: every hyperparameter of a training run in one frozen class, with its meaning, its unit and its range."""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

SEED_LIMIT = 2**31  # training's seeds lie below it, the evaluations' seeds above


class RecipeError(Exception):
    """Raised when a hyperparameter is unknown or outside its range."""


class Recipe(BaseModel):
    """The hyperparameters of one run. The defaults are the `baseline` recipe, after the tutorial named in docs/training.md."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = "baseline"
    hidden: tuple[Annotated[int, Field(gt=0, le=4096)], ...] = Field((24, 24), description="units of each hidden layer")
    memory: int = Field(2_000, gt=0, description="transitions that the replay memory keeps")
    batch: int = Field(64, gt=0, description="transitions in a minibatch; learning starts when more are stored")
    learn_every: int = Field(4, gt=0, description="environment steps between two updates")
    discount: float = Field(0.99, ge=0, le=1, description="γ, the weight of the next step's value")
    learning_rate: float = Field(0.0025, gt=0, description="Adam's step size")
    epsilon_start: float = Field(1.0, ge=0, le=1, description="share of random actions in the first episode")
    epsilon_decay: float = Field(0.9995, gt=0, le=1, description="factor on ε after each episode")
    epsilon_min: float = Field(0.001, ge=0, le=1, description="ε never falls below this")
    failure_reward: float = Field(-10.0, description="reward of the last step of an episode whose score is not yet at the limit")
    truncation_is_terminal: bool = Field(True, description="cut the bootstrap at the time limit too, as the tutorial does")
    episodes: int = Field(5_000, gt=0, description="episodes at most")
    stop_window: int = Field(10, gt=0, description="episodes whose mean score decides on stopping; more than these must have been played")
    stop_mean: float = Field(450.0, description="training stops when the mean of the window is above this score")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if not self.hidden:
            raise ValueError("hidden: at least one hidden layer is needed")
        if self.batch >= self.memory:
            raise ValueError(f"batch: a batch of {self.batch} cannot be drawn from a memory of {self.memory}; it must be smaller")
        if self.epsilon_min > self.epsilon_start:
            raise ValueError(f"epsilon_min: {self.epsilon_min} is above epsilon_start, {self.epsilon_start}")
        return self


RECIPES = {"baseline": Recipe()}


def recipe(name: str, changes: dict[str, object]) -> Recipe:
    """Return the named recipe with some hyperparameters changed. Raises `RecipeError`, which names what is wrong."""
    if name not in RECIPES:
        raise RecipeError(f"recipe: there is none named {name!r}; choose from {', '.join(RECIPES)}")
    try:
        return Recipe.model_validate({**RECIPES[name].model_dump(), **changes})
    except ValidationError as error:
        complaints = []
        for detail in error.errors(include_url=False):
            where = ".".join(str(part) for part in detail["loc"])
            message = detail["msg"].removeprefix("Value error, ")
            complaints.append(f"{where}: {message}, not {detail['input']!r}" if where else message)
        raise RecipeError("; ".join(complaints)) from error
