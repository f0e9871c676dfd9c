"""What a sweep is: all that decides its results, as its storage keeps it."""

import hashlib
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from training.recipes import AnyRecipe, recipe
from training.sweep.ranges import Search
from training.sweep.trials import Changes, Part, Trial

Kind = Literal["seeds", "ablation", "plants", "search"]

ROOT = Path(__file__).parents[2]


class Evaluation(Part):
    """How many episodes each trial is evaluated in, where it is not the recipe's own number."""

    episodes: int | None = None
    scenario_episodes: int | None = None


class Sweep(Part):
    """All that decides the results of a sweep."""

    schema_version: Literal[1] = 1
    id: str
    created: datetime
    kind: Kind
    recipe: str
    changes: Changes  # of the recipe, in all trials
    trials: tuple[Trial, ...]  # none of a search, which finds them on its way
    evaluation: Evaluation = Evaluation()
    search: Search | None = None
    commit: str | None = None
    code: str  # SHA-256 of the code that trains and exports

    def recipe_of(self, trial: Trial) -> AnyRecipe:
        """Return a trial's recipe. Raises `RecipeError`."""
        return recipe(self.recipe, {**self.changes, **trial.changes})


def new_id() -> str:
    """Return a name for a sweep that no other has."""
    return secrets.token_hex(6)


def now() -> datetime:
    """Return the time, in whole seconds."""
    return datetime.now(UTC).replace(microsecond=0)


def code_digest() -> str:
    """Return the SHA-256 of the code that a trial's result depends on.

    Machines with another copy of the code would give results that look like this sweep's.
    """
    digest = hashlib.sha256()
    files = [*(ROOT / "training").rglob("*.py"), *(ROOT / "models").glob("*.py")]
    for path in sorted(files):
        name = path.relative_to(ROOT)
        if name.parts[1] not in ("sweep", "commands"):
            digest.update(f"{name}\n".encode() + path.read_bytes())
    return digest.hexdigest()
