"""Searches over hyperparameters, by Ray Tune: Optuna's TPE or at random, ASHA ends the hopeless.

A search chooses by the validation score alone: the scenarios that a policy is evaluated in must not
choose it. What it has found is then trained anew beside the recipe, with seeds that it never used.
"""

import logging
import shutil
import signal
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from training.sweep import results
from training.sweep.ranges import Range, Search
from training.sweep.results import Row
from training.sweep.storage import Storage
from training.sweep.tasks import Observer, Resources, Standing, reason_of
from training.sweep.trial import TrialFunction, Work
from training.sweep.trials import Changes, Trial
from training.trainer import Progress

SEARCHED = "searched"  # the variation of the search's own trials
RECIPE, BEST = "the recipe", "the best of the search"
METRIC = "validation_score"
PERCENT = "percent"  # of a trial's steps
NOTHING = float("-inf")


def confirmation(search: Search, rows: Sequence[Row]) -> tuple[Trial, ...]:
    """Return the trials that compare the best of a search with the recipe.

    The best has the highest validation score, and among equals the fewest steps.
    """
    best = ranked(rows)[:1]
    if not best:
        return ()
    changes: Changes = {
        name: best[0][results.HYPERPARAMETER + name] for name in search.hyperparameters
    }
    pairs: list[tuple[str, Changes]] = [(RECIPE, {}), (BEST, changes)]
    return tuple(
        Trial(
            number=search.trials + 1 + 2 * place + which,  # Tune counts from 0 or from 1
            variation=variation,
            changes=changed,
            seed=seed,
        )
        for place, seed in enumerate(search.seeds)
        for which, (variation, changed) in enumerate(pairs)
    )


def ranked(rows: Sequence[Row]) -> list[Row]:
    """Return those trials of a search that were trained to their end, the best first."""
    done = [row for row in rows if row["variation"] == SEARCHED and row["status"] == results.DONE]
    return sorted(
        done,
        key=lambda row: (
            -(results.number(row, METRIC) or 0.0),
            results.number(row, "steps") or 0.0,
        ),
    )


def run_search(
    work: Work,
    search: Search,
    *,
    run_trial: TrialFunction,
    resources: Resources,
    slots: int,
    attempts: int,
    observer: Observer,
    interrupted: Callable[[], bool] = lambda: False,
) -> None:
    """Run a search on a connected Ray, or what is left of one whose driver died."""
    from ray import tune

    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # the observer is told
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that Ray is to change
        # Not tune.Tuner, which pickles its callbacks.
        tune.run(
            tune.with_parameters(_train, work=work, search=search, run_trial=run_trial),
            name="tune",
            storage_path=work.storage,
            resume="AUTO+ERRORED",
            resources_per_trial={"cpu": resources.cpus, "gpu": resources.gpus},
            config={name: _space(values) for name, values in search.hyperparameters.items()},
            metric=METRIC,
            mode="max",
            num_samples=search.trials,
            max_concurrent_trials=slots,
            search_alg=_sampler(search),
            scheduler=_scheduler(search),
            trial_dirname_creator=_folder_name,
            max_failures=attempts - 1,
            raise_on_failed_trial=False,
            callbacks=[_callback(work, search, observer, interrupted)],
            verbose=0,
        )
    # What trials that were ended early have left on this machine.
    shutil.rmtree(Path(tempfile.gettempdir()) / f"upright-sweep-{work.sweep.id}", True)


def _space(values: Range) -> Any:
    from ray import tune

    if values.choices:
        return tune.choice(list(values.choices))
    low, high = values.low, values.high
    if isinstance(low, int) and isinstance(high, int):
        return (tune.lograndint if values.log else tune.randint)(low, high + 1)
    return (tune.loguniform if values.log else tune.uniform)(low, high)


def _sampler(search: Search) -> Any:
    if search.sampler == "random":
        from ray.tune.search.basic_variant import BasicVariantGenerator

        return BasicVariantGenerator(random_state=search.sampler_seed)

    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return OptunaSearch(seed=search.sampler_seed)


def _scheduler(search: Search) -> Any:
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

    if search.scheduler == "none":
        return FIFOScheduler()
    return ASHAScheduler(
        time_attr=PERCENT, max_t=100, grace_period=search.grace_percent, reduction_factor=2
    )


def _trial(search: Search, folder: str, config: dict[str, Any]) -> Trial:
    """Return one of Tune's trials as one of the sweep's."""
    return Trial(
        number=int(Path(folder).name),
        variation=SEARCHED,
        seed=search.training_seed,
        changes=config,
    )


def _folder_name(trial: Any) -> str:
    """Return the name of a trial's folder: its number, of which Tune's own ids hold nothing."""
    return f"{int(trial.experiment_tag.partition('_')[0]):06d}"


def _train(config: dict[str, Any], *, work: Work, search: Search, run_trial: TrialFunction) -> None:
    """Run a trial in a process of Tune's, and report its validation score on its way."""
    from ray import tune

    trial = _trial(search, tune.get_context().get_trial_dir(), config)
    best, reported = NOTHING, 0

    def report(share: float, progress: Progress) -> None:
        nonlocal best, reported
        score = results.score_of(progress.metrics)
        best = best if score is None else max(best, score)
        percent = int(100 * share)
        if reported < percent < 100:  # the last report is that of the row
            reported = percent
            tune.report({METRIC: best, PERCENT: percent})

    try:
        row = run_trial(work, trial, 1, report)
        score = results.number(row, METRIC)
    except Exception as error:  # whatever went wrong would go wrong again
        row = results.row_without_policy(work.sweep, trial, results.FAILED, reason=reason_of(error))
        Storage(work.storage).write(results.path_of(trial), results.to_json(row))
        score = None
    # Every report must hold the metric: Tune would end the whole search without it.
    tune.report({METRIC: best if score is None else score, PERCENT: 100})


def _callback(
    work: Work, search: Search, observer: Observer, interrupted: Callable[[], bool]
) -> Any:
    """Return what tells an observer of Tune's trials, and keeps a row of those ended early."""
    from ray import tune

    storage = Storage(work.storage)

    class Callback(tune.Callback):  # type: ignore[misc]  # Ray's types are not followed
        """Is asked by Tune at each of its steps."""

        def __init__(self) -> None:
            self._running: dict[int, Standing] = {}

        def on_step_begin(self, **_: Any) -> None:
            if interrupted():
                signal.raise_signal(signal.SIGINT)  # Tune keeps its state and ends

        def on_trial_result(self, trial: Any, result: dict[str, Any], **_: Any) -> None:
            number = _trial(search, _folder_name(trial), trial.config).number
            share = result[PERCENT] / 100
            self._running[number] = Standing(share, f"score {result[METRIC]:.3f}")
            observer.standing(self._running)

        def on_trial_recover(self, trial: Any, **_: Any) -> None:
            lost = _trial(search, _folder_name(trial), trial.config)
            observer.lost(lost, "its process or machine died", trial.num_failures + 1)

        def on_trial_complete(self, trial: Any, **_: Any) -> None:
            self._end(trial, results.ENDED_EARLY, "others were better after as many steps")

        def on_trial_error(self, trial: Any, **_: Any) -> None:
            self._end(trial, results.FAILED, "its process or machine died too often")

        def _end(self, trial: Any, status: str, reason: str) -> None:
            ended = _trial(search, _folder_name(trial), trial.config)
            self._running.pop(ended.number, None)
            content = storage.read(results.path_of(ended))
            if content is None:
                row = results.row_without_policy(
                    work.sweep,
                    ended,
                    status,
                    reason=reason,
                    validation_score=(trial.last_result or {}).get(METRIC),
                )
                storage.write(results.path_of(ended), results.to_json(row))
                storage.remove(results.checkpoint_path_of(ended))
            else:
                row = results.parse(content)
            observer.ended(ended, row)

    return Callback()
