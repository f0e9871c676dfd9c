"""Recipes: every hyperparameter of a training with its meaning, its unit and its range."""

from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from models.manifest import Plant
from training.envs.conditions import DomainRandomization, Reward
from training.evaluation.gate import GateName

SelectionRule = Literal["first", "best"]

Count = Annotated[int, Field(gt=0)]
BufferSize = Annotated[int, Field(gt=0, le=10_000_000)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Widths = tuple[Annotated[int, Field(gt=0, le=4096)], ...]


class RecipeError(Exception):
    """Raised when a hyperparameter is unknown or outside its range."""


class _Recipe(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class BaselineRecipe(_Recipe):
    """Train the tutorial's agent, fact by fact as docs/recipes.md lists them."""

    name: Literal["baseline"] = "baseline"
    gate: GateName = Field("tutorial", description="what a policy must pass to be exported")
    hidden: Widths = Field((24, 24), min_length=1, description="units of each hidden layer")
    buffer_size: BufferSize = Field(2_000, description="transitions in the replay buffer")
    batch_size: Count = Field(
        64, description="transitions in a minibatch; learning starts when more are stored"
    )
    train_frequency: Count = Field(4, description="environment steps between two updates")
    gamma: Fraction = Field(0.99, description="γ, the weight of the next step's value")
    learning_rate: float = Field(0.0025, gt=0, description="Adam's step size")
    epsilon_start: Fraction = Field(1.0, description="share of random actions in the first episode")
    epsilon_decay: float = Field(0.9995, gt=0, le=1, description="factor on ε after each episode")
    epsilon_min: Fraction = Field(0.001, description="ε never falls below this")
    failure_reward: float = Field(
        -10.0,
        description="reward of the last step of an episode whose score is not yet at the limit",
    )
    truncation_is_terminal: bool = Field(
        True, description="cut the bootstrap at the time limit too, as the tutorial does"
    )
    episodes: Count = Field(5_000, description="episodes at most")
    stop_window: Count = Field(
        10, description="episodes whose mean score decides on stopping; there must be more of them"
    )
    stop_mean: float = Field(
        450.0, description="training stops when the mean of the window is above this score"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.batch_size >= self.buffer_size:
            raise ValueError(
                f"batch_size: {self.batch_size} transitions cannot be drawn from a buffer of"
                f" {self.buffer_size}; it must be smaller"
            )
        if self.epsilon_min > self.epsilon_start:
            raise ValueError(
                f"epsilon_min: {self.epsilon_min} is above epsilon_start, {self.epsilon_start}"
            )
        return self


class PopulationRecipe(_Recipe):
    """Train K agents side by side. The defaults are those of the recipe `quick`."""

    name: Literal["quick", "robust"] = "quick"
    gate: GateName = Field("nominal", description="what a policy must pass to be exported")
    model_selection: SelectionRule = Field(
        "first",
        description="end with the first agent that passes on the nominal plant, or train to the"
        " end and take the best in hard scenarios",
    )
    agents: Count = Field(16, description="K, agents trained at once")
    num_envs: Count = Field(2, description="environments of each agent")
    ensemble: bool = Field(
        False,
        description="all agents learn from one replay buffer, and each moves to the target of"
        " their mean; else they learn side by side and know nothing of each other",
    )
    hidden: Widths = Field((24, 24), min_length=1, description="units of each hidden layer")
    steps: Count = Field(60_000, description="environment steps of each agent, at most")
    max_episode_steps: Count = Field(
        500, description="steps after which a training episode is truncated"
    )
    epsilon_start: Fraction = Field(1.0, description="share of random actions at the start")
    epsilon_end: Fraction = Field(
        0.02, description="share of random actions at the end of epsilon_steps"
    )
    epsilon_steps: Count = Field(
        9_000, description="environment steps of each agent over which ε falls"
    )
    buffer_size: BufferSize = Field(20_000, description="transitions in each replay buffer")
    learning_starts: Count = Field(
        500, description="transitions in the buffer before the first update"
    )
    n_step: Count = Field(1, description="rewards summed before the bootstrap")
    mirror: bool = Field(
        False, description="reflect half of each minibatch at x = 0: the plant is the same"
    )
    batch_size: Count = Field(32, description="transitions of each agent in an update")
    updates: Count = Field(2, description="updates after each step of the vector environment")
    gamma: float = Field(0.99, gt=0, lt=1, description="γ, the weight of what comes 20 ms later")
    learning_rate: float = Field(2e-3, gt=0, le=0.1, description="Adam's step size at the start")
    learning_rate_end: float = Field(
        2e-3, ge=0, le=0.1, description="Adam's step size at the end of the steps; linear between"
    )
    scale: tuple[float, float, float, float] = Field(
        (1.0, 1.0, 0.1, 1.0), description="m, m/s, rad, rad/s that count as 1 in learning"
    )
    limits: tuple[Positive, Positive, Positive, Positive] | None = Field(
        None,
        description="m, m/s, rad, rad/s beyond which a state counts as if it lay there; none"
        " limits nothing",
    )
    huber_delta: float = Field(
        1.0, gt=0, description="δ of the Huber loss: errors beyond it weigh linearly"
    )
    advantage: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="α of advantage learning, which widens the gap between the actions' values",
    )
    tau: float = Field(
        0.01,
        gt=0,
        le=1,
        description="fraction of the online weights that enters the target network in an update",
    )
    weight_ema: Fraction = Field(
        0.0,
        description="the same for the averaged weights that are evaluated and exported;"
        " 0 takes the online ones",
    )
    eval_frequency: Count = Field(
        100, description="steps of the vector environment between two greedy checks"
    )
    domain_randomization: DomainRandomization = Field(
        DomainRandomization(), description="what the plant of a training episode is drawn from"
    )
    reward: Reward = Field(Reward(), description="the reward of a step")
    plant: Plant = Field(Plant(), description="the cart-pole that it is all about")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.learning_starts > self.buffer_size:
            raise ValueError(
                f"learning_starts: {self.learning_starts} is more than the buffer of"
                f" {self.buffer_size} holds"
            )
        if self.epsilon_end > self.epsilon_start:
            raise ValueError(
                f"epsilon_end: {self.epsilon_end} is above epsilon_start, {self.epsilon_start}"
            )
        return self


AnyRecipe = Annotated[BaselineRecipe | PopulationRecipe, Discriminator("name")]

RECIPES: dict[str, BaselineRecipe | PopulationRecipe] = {
    "robust": PopulationRecipe(
        # The nominal plant, but begun anywhere in the box that `recovery` draws its starts from,
        # and pushed. A fall costs more than any way back, and a quadratic cost like an LQR's
        # decides between the ways back.
        name="robust",
        gate="robust",
        model_selection="best",
        agents=4,
        num_envs=32,
        ensemble=True,
        hidden=(48, 48),
        steps=256_000,
        max_episode_steps=100,
        epsilon_start=0.2,
        epsilon_end=0.1,
        epsilon_steps=128_000,
        buffer_size=256_000,
        learning_starts=5_000,
        mirror=True,
        batch_size=256,
        learning_rate=3e-3,
        learning_rate_end=1e-5,
        limits=(2.4, 9.0, 0.2095, 9.0),
        huber_delta=1_000,
        advantage=0.9,
        tau=0.02,
        weight_ema=0.002,
        eval_frequency=1_000,
        domain_randomization=DomainRandomization(
            start=(2.4, 3.0, 0.2095, 3.0), push=1.0, push_chance=0.02, nominal=0.0
        ),
        reward=Reward(
            alive=0.0,
            fall=-1.0,
            position=0.0115,
            velocity=0.018,
            angular_velocity=0.04,
        ),
    ),
    "quick": PopulationRecipe(),
    "baseline": BaselineRecipe(),
}


def title(recipe: BaselineRecipe | PopulationRecipe) -> str:
    """Return the recipe's name, with +changes where a hyperparameter is not the named recipe's."""
    return recipe.name if recipe == RECIPES[recipe.name] else f"{recipe.name}+changes"


def recipe(name: str, changes: dict[str, object]) -> BaselineRecipe | PopulationRecipe:
    """Return the named recipe with some hyperparameters changed.

    A hyperparameter that is a part of another, such as `domain_randomization.noise`, is named with
    a dot. Raises `RecipeError`, which names what is wrong.
    """
    if name not in RECIPES:
        raise RecipeError(f"recipe: there is none named {name!r}; choose from {', '.join(RECIPES)}")

    values = RECIPES[name].model_dump()
    for key, value in changes.items():
        field, _, part = key.partition(".")
        if field not in values or (part and part not in values[field]):
            raise RecipeError(f"{key}: recipe {name} has no such hyperparameter")
        if part:
            values[field][part] = value
        else:
            values[field] = value

    try:
        changed: BaselineRecipe | PopulationRecipe = TypeAdapter(AnyRecipe).validate_python(values)
    except ValidationError as error:
        # The first part of a location is the name of the union's member.
        raise RecipeError("; ".join(problems(error, skip=1))) from error
    return changed


def problems(error: ValidationError, *, skip: int = 0) -> list[str]:
    """Return one line for each field that is wrong: its name, what is wrong, and its value.

    `skip` is the number of parts of each location that are left out.
    """
    lines = []
    for detail in error.errors(include_url=False):
        message = detail["msg"].removeprefix("Value error, ")
        field = ".".join(str(part) for part in detail["loc"][skip:])
        lines.append(f"{field}: {message}, not {detail['input']!r}" if field else message)
    return lines
