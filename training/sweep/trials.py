"""What a sweep trains: its trials, by seeds, by changes of the recipe, or by plants."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, JsonValue, TypeAdapter, ValidationError

from models.manifest import Plant
from models.toml import TomlError, parse_toml, read_toml
from training.seeding import TRAINING_SEEDS

Changes = dict[str, JsonValue]  # hyperparameters by name, as `recipes.recipe` takes them

ABLATIONS = Path(__file__).with_name("ablation.toml")
WHOLE_RECIPE = "the whole recipe"


class SweepError(Exception):
    """Raised when what is asked for is no sweep; its text is for the person who asked."""


class Part(BaseModel):
    """A part of what describes a sweep: what it does not know is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def from_toml(value: JsonValue) -> JsonValue:
    """Return a hyperparameter's value; TOML has nothing for None, so it is the text "None"."""
    return None if value == "None" else value


def _changes_from_toml(changes: Changes) -> Changes:
    return {name: from_toml(value) for name, value in changes.items()}


class _Ablation(Part):
    """A recipe without one of its ingredients."""

    row: str
    changes: Annotated[Changes, AfterValidator(_changes_from_toml)]


class Trial(Part):
    """One training of a sweep."""

    number: int
    variation: str  # what is special in it, in words; trials that differ by the seed share it
    seed: int
    changes: Changes = {}  # of the sweep's recipe

    @property
    def name(self) -> str:
        """Its name among the sweep's files."""
        return f"{self.number:06d}"


def parse_seeds(text: str) -> tuple[int, ...]:
    """Return the seeds of a text such as `0-3` or `0,2,10-19`.

    Raises `SweepError` for what is no such text, and for seeds that are not for training.
    """
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise SweepError(f"{part!r} is no seed and no range; expected as in 0-3 or 0,2,5-9")
        low, high = int(first), int(last or first)
        if low > high:
            raise SweepError(f"{part!r} is empty: its first seed is above its last")
        if high not in TRAINING_SEEDS:
            raise SweepError(f"{high} is not below {TRAINING_SEEDS.stop}")
        seeds += range(low, high + 1)

    if len(set(seeds)) < len(seeds):
        raise SweepError("a seed is named twice")
    return tuple(seeds)


def parse_changes(words: Sequence[str]) -> Changes:
    """Return the hyperparameters of words such as `steps=4000` or `hidden=[32, 32]`.

    A value is written as in TOML, and None as "None". Raises `SweepError`.
    """
    changes: Changes = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise SweepError(f"{word!r} names no value; expected NAME=VALUE")
        try:
            changes[name.replace("-", "_")] = from_toml(parse_toml(f"value = {value}")["value"])
        except TomlError as error:
            raise SweepError(
                f"{value!r} is no value of TOML: a text needs quotes, a list brackets"
            ) from error
    return changes


def seed_trials(
    variations: Iterable[tuple[str, Changes]], seeds: Sequence[int]
) -> tuple[Trial, ...]:
    """Return a trial for each variation and seed.

    Seed by seed: where a sweep is ended early, each variation has as many.
    """
    pairs = list(variations)
    return tuple(
        Trial(number=number, variation=variation, changes=changes, seed=seed)
        for number, (seed, (variation, changes)) in enumerate(
            (seed, pair) for seed in seeds for pair in pairs
        )
    )


def ablations(name: str) -> list[tuple[str, Changes]]:
    """Return the variations of a recipe's ablation, the first of them the recipe itself.

    Raises `SweepError` for a recipe that has none.
    """
    rows = TypeAdapter(dict[str, list[_Ablation]]).validate_python(read_tables(ABLATIONS))
    if name not in rows:
        raise SweepError(
            f"--ablation: recipe {name} has no rows in {ABLATIONS.name}; there are some for"
            f" {', '.join(rows)}"
        )
    return [(WHOLE_RECIPE, {}), *((each.row, each.changes) for each in rows[name])]


def plant_trials(path: Path, seeds: Sequence[int]) -> tuple[Trial, ...]:
    """Return a trial for each plant of a file and each seed.

    A plant is a table `[plants.NAME]` with what differs from the standard plant, such as
    `pole_mass` (kg). Raises `SweepError`.
    """
    tables = read_tables(path).get("plants")
    if not isinstance(tables, dict) or not tables:
        raise SweepError(f"{path}: has no plants; expected tables such as [plants.heavy]")

    variations: list[tuple[str, Changes]] = []
    for name, table in tables.items():
        try:
            plant = Plant.model_validate(table)
        except ValidationError as error:
            raise SweepError(f"{path}: [plants.{name}] {problem_of(error)}") from error
        values = plant.model_dump(exclude_unset=True)
        variations.append((name, {f"plant.{part}": value for part, value in values.items()}))
    return seed_trials(variations, seeds)


def read_tables(path: Path) -> dict[str, object]:
    """Return the tables of a TOML file. Raises `SweepError`, which names the file."""
    try:
        return read_toml(path)
    except TomlError as error:
        raise SweepError(f"{path}: {error}") from error


def problem_of(error: ValidationError) -> str:
    """Return the first thing that is wrong in a file's tables, as a line."""
    detail = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in detail["loc"])
    return f"{field}: {detail['msg']}, not {detail['input']!r}"
