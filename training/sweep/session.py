"""A sweep in its storage: begun, or taken up again where a driver has left it."""

from collections.abc import Sequence

from training.recipes import RecipeError
from training.sweep import results
from training.sweep.plan import Sweep
from training.sweep.results import Row
from training.sweep.search import SEARCHED, confirmation
from training.sweep.storage import Storage
from training.sweep.trial import SWEEP
from training.sweep.trials import SweepError, Trial

RESULTS_DEPEND_ON = ("kind", "recipe", "changes", "trials", "evaluation", "search", "code")


def begin(storage: Storage, sweep: Sweep, *, resume: bool) -> Sweep:
    """Keep what a sweep is, or return the same one that is kept here already.

    Raises `SweepError` where the storage holds another sweep or something else, or a sweep that
    nobody asked to go on with.
    """
    content = storage.read(SWEEP)
    if content is None:
        if others := [name for name in storage.names() if name != SWEEP]:
            raise SweepError(
                f"{storage.place}: holds files but no sweep ({', '.join(others[:3])});"
                " give another --storage"
            )
        storage.write(SWEEP, sweep.model_dump_json().encode())
        return sweep

    kept = read(storage)
    if not resume:
        raise SweepError(
            f"{storage.place}: holds a sweep already; --resume goes on with it, --storage takes"
            " another place"
        )
    for name in RESULTS_DEPEND_ON:
        before, asked = getattr(kept, name), getattr(sweep, name)
        if before != asked:
            raise SweepError(f"{storage.place}: {_difference(name, before, asked)}")
    return kept


def read(storage: Storage) -> Sweep:
    """Return the sweep that a storage holds. Raises `SweepError`."""
    content = storage.read(SWEEP)
    if content is None:
        raise SweepError(f"{storage.place}: holds no sweep: there is no {SWEEP}")
    try:
        return Sweep.model_validate_json(content)
    except ValueError as error:
        raise SweepError(f"{storage.place}: {SWEEP} is none of this release: {error}") from error


def kept(storage: Storage) -> list[Row]:
    """Return the rows of trials that have ended, and not by a failure."""
    return [row for row in results.read_rows(storage) if row["status"] != results.FAILED]


def remaining(storage: Storage, sweep: Sweep) -> list[Trial]:
    """Return the trials that are to be run now: without a row, or with that of a failure.

    Of a search, they are the trials after it, which compare what it has found with the recipe.
    """
    rows = results.read_rows(storage)
    ended = {row["trial"] for row in rows if row["status"] != results.FAILED}
    return [trial for trial in _trials(sweep, rows) if trial.number not in ended]


def has_work(storage: Storage, sweep: Sweep) -> bool:
    """Return whether there is anything to run."""
    return not is_complete(storage, sweep) or bool(remaining(storage, sweep))


def is_complete(storage: Storage, sweep: Sweep) -> bool:
    """Return whether every trial has ended, well or not."""
    rows = results.read_rows(storage)
    ended = {row["trial"] for row in rows}
    return _has_searched(sweep, rows) and all(
        trial.number in ended for trial in _trials(sweep, rows)
    )


def size_of(sweep: Sweep) -> int:
    """Return the number of trials of a sweep, with those after a search."""
    if sweep.search is None:
        return len(sweep.trials)
    return sweep.search.trials + 2 * len(sweep.search.seeds)


def _trials(sweep: Sweep, rows: Sequence[Row]) -> Sequence[Trial]:
    """Return all trials, but for those that Tune runs, and those that wait for its end."""
    if sweep.search is None:
        return sweep.trials
    return confirmation(sweep.search, rows) if _has_searched(sweep, rows) else ()


def _has_searched(sweep: Sweep, rows: Sequence[Row]) -> bool:
    """Return whether all of Tune's trials have ended, where there are to be any."""
    searched = sum(row["variation"] == SEARCHED for row in rows)
    return sweep.search is None or searched >= sweep.search.trials


def check_recipes(sweep: Sweep) -> None:
    """Check that every trial has a recipe, before any is run. Raises `SweepError`."""
    checked = set()
    for trial in sweep.trials:
        key = repr(trial.changes)
        if key not in checked:
            checked.add(key)
            try:
                sweep.recipe_of(trial)
            except RecipeError as error:
                row = f"{trial.variation}: " if trial.variation else ""
                raise SweepError(f"{row}{error}") from error


def _difference(name: str, before: object, asked: object) -> str:
    if name == "code":
        return (
            "the code that trains was another when this sweep began, and its results would be of"
            " both; give another --storage"
        )
    if name == "trials" and isinstance(before, Sequence) and isinstance(asked, Sequence):
        return (
            f"holds another sweep, of {len(before)} trials, and these {len(asked)} are not the"
            " same; give another --storage"
        )
    return f"holds another sweep: its {name} is {before!r}, and not {asked!r}"
