"""What `python -m training sweep` does."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import torch

from models.programs import INTERRUPTED
from training.commands.command_line import SweepCommand
from training.commands.cores import usable_cores
from training.commands.interruption import interruptible
from training.commands.output import Output
from training.commands.run import CommandError
from training.export.candidates import current_commit
from training.loggers import Logger
from training.recipes import RecipeError, recipe
from training.sweep import estimate, results, session
from training.sweep.cluster import LOCAL, ClusterError, check_room, connected, slots_of
from training.sweep.estimate import Duration, in_words
from training.sweep.plan import Evaluation, Kind, Sweep, code_digest, new_id, now
from training.sweep.ranges import read_search
from training.sweep.reporting.report import PAGE, results_table, write_report
from training.sweep.results import Row
from training.sweep.search import run_search
from training.sweep.storage import Storage, StorageError
from training.sweep.tasks import Resources, Standing, run_trials
from training.sweep.trial import Work, run_trial
from training.sweep.trials import (
    SweepError,
    Trial,
    ablations,
    parse_changes,
    parse_seeds,
    plant_trials,
    seed_trials,
)
from training.trainer import Progress


def sweep(command: SweepCommand) -> int:
    """Run a sweep, or write its report again. Returns the exit code: 1 where a trial failed."""
    output = Output(json_output=command.json_output)
    try:
        if command.report is not None:
            return _report(Storage(_absolute(command.report)), output)
        return _sweep(command, output)
    except (SweepError, StorageError, ClusterError, RecipeError) as error:
        raise CommandError(str(error)) from error


def _report(storage: Storage, output: Output) -> int:
    files = write_report(storage, session.read(storage))
    if not files:
        raise CommandError(f"{storage.place}: no trial has ended yet")
    output.print_facts(wrote=storage.place, files=", ".join(files))
    return output.exit_code()


def _sweep(command: SweepCommand, output: Output) -> int:
    planned = _plan(command)
    session.check_recipes(planned)
    place = _absolute(command.storage or f"runs/sweep-{planned.recipe}-{planned.kind}")
    resources = Resources(command.cpus_per_trial, command.gpus_per_trial)
    storage = Storage(place)
    if command.dry_run:
        _print_trials(planned, output)
        _print_duration(planned, [], command, resources, output)
        return output.exit_code()

    with storage.locked():
        begun = session.begin(storage, planned, resume=command.resume)
        work = Work(
            sweep=begun.model_copy(update={"trials": ()}),
            storage=place,
            device="cuda" if command.gpus_per_trial else "cpu",
            checkpoint_every=command.checkpoint_every,
            any_processor=command.any_processor,
        )
        rows = session.kept(storage)
        if session.has_work(storage, begun):
            _print_duration(begun, rows, command, resources, output)
        is_complete = _run(command, work, begun, resources, output)
        return _finish(storage, begun, output, is_complete=is_complete)


def _plan(command: SweepCommand) -> Sweep:
    """Return the sweep that was asked for."""
    changes, seeds = parse_changes(command.changes), parse_seeds(command.seeds)
    recipe(command.recipe, {**changes})
    kind, trials = _trials(command, seeds)
    search = (
        None
        if command.search is None
        else read_search(command.search, command.recipe, changes, seeds)
    )
    return Sweep(
        id=new_id(),
        created=now(),
        kind=kind,
        recipe=command.recipe,
        changes=changes,
        trials=trials,
        search=search,
        evaluation=Evaluation(
            episodes=command.episodes, scenario_episodes=command.scenario_episodes
        ),
        commit=current_commit(),
        code=code_digest(),
    )


def _trials(command: SweepCommand, seeds: Sequence[int]) -> tuple[Kind, tuple[Trial, ...]]:
    if command.search is not None:
        return "search", ()
    if command.ablation:
        return "ablation", seed_trials(ablations(command.recipe), seeds)
    if command.plants is not None:
        return "plants", plant_trials(command.plants, seeds)
    return "seeds", seed_trials([("", {})], seeds)


def _run(
    command: SweepCommand, work: Work, begun: Sweep, resources: Resources, output: Output
) -> bool:
    """Run what is left of a sweep. Returns whether all of it has ended."""
    storage = Storage(work.storage)
    if not session.has_work(storage, begun):
        return True
    with (
        connected(command.address, cpus=_cpus(command)),
        interruptible() as interrupted,
        output.logger() as logger,
    ):
        check_room(resources.cpus, resources.gpus)
        display = Display(logger, len(session.kept(storage)), session.size_of(begun))
        if begun.search is not None:
            run_search(
                work,
                begun.search,
                run_trial=run_trial,
                resources=resources,
                slots=slots_of(resources.cpus, resources.gpus),
                attempts=command.attempts,
                observer=display,
                interrupted=interrupted,
            )
        run_trials(
            work,
            session.remaining(storage, begun),
            run_trial=run_trial,
            resources=resources,
            attempts=command.attempts,
            observer=display,
            interrupted=interrupted,
        )
    return session.is_complete(storage, begun)


def _finish(storage: Storage, begun: Sweep, output: Output, *, is_complete: bool) -> int:
    """Write the report, and say what there is, what failed and how to go on."""
    write_report(storage, begun)
    rows = results.read_rows(storage)
    done = [row for row in rows if row["status"] == results.DONE]
    failed = [row for row in rows if row["status"] == results.FAILED]
    if done and not output.json_output:
        for line in results_table(begun, done).splitlines():
            output.print_line(line)
    for row in failed:
        output.warn(f"trial {row['trial']}, seed {row['seed']}, failed: {row['reason']}")
    output.print_facts(
        ended=len(rows),
        of=session.size_of(begun),
        passed=sum(bool(row["passed"]) for row in done),
        failed=len(failed),
        wrote=storage.place,
        report=f"{storage.place}/{PAGE}",
    )
    if not is_complete:
        output.print_facts(to_go_on="give the same command again, with --resume")
        return INTERRUPTED
    return output.exit_code(1 if failed else 0)


def _print_trials(planned: Sweep, output: Output) -> None:
    for trial in planned.trials:
        changes = {**trial.changes}
        if output.json_output:
            output.print_facts(
                trial=trial.number, variation=trial.variation, seed=trial.seed, changes=changes
            )
        else:
            told = ", ".join(f"{name} {value}" for name, value in changes.items())
            name = trial.variation or planned.recipe
            output.print_line(
                f"trial {trial.number}: {name}, seed {trial.seed}" + (f" ({told})" if told else "")
            )


def _print_duration(
    planned: Sweep,
    rows: Sequence[Row],
    command: SweepCommand,
    resources: Resources,
    output: Output,
) -> None:
    """Say how long it will take and what it costs, before anything starts."""
    trials = session.size_of(planned) - len(rows)
    known = estimate.trial_seconds(rows)
    if known is None:
        first = recipe(planned.recipe, {**planned.changes})
        seconds, at_most = estimate.measure(first), "at most "
    else:
        seconds, at_most = known, ""
    duration = Duration(trials, seconds, _slots(command, resources))
    amount, unit = (resources.gpus, "GPU") if resources.gpus else (resources.cpus, "CPU")
    hours = duration.hours * amount
    if output.json_output:
        output.print_facts(
            trials=trials,
            seconds_a_trial=round(seconds, 1),
            seconds=round(duration.seconds, 1),
            hours={unit: round(hours, 2)},
            cost=round(hours * command.price, 2) if command.price else None,
        )
        return
    cost = f", cost {hours * command.price:,.2f}" if command.price else ""
    output.print_line(
        f"{trials:,} trials of {at_most}{in_words(seconds)}, {duration.slots} at a time:"
        f" {at_most}{in_words(duration.seconds)} and {hours:.2f} {unit} hours{cost}"
    )


def _slots(command: SweepCommand, resources: Resources) -> int:
    """Return how many trials run at a time."""
    if command.address != LOCAL:
        with connected(command.address):
            return slots_of(resources.cpus, resources.gpus)
    slots = _cpus(command) // resources.cpus
    if resources.gpus:
        slots = min(slots, torch.cuda.device_count() // resources.gpus)
    return max(1, int(slots))


def _cpus(command: SweepCommand) -> int:
    return command.cpus or usable_cores()


def _absolute(place: str) -> str:
    """Return a folder by its whole name, since trials run elsewhere; a URL as it is."""
    return place if urlsplit(place).scheme else str(Path(place).absolute())


class Display:
    """Shows a sweep: a line for each trial that ends, and a live line for those that run."""

    def __init__(self, logger: Logger, ended: int, total: int) -> None:
        self._logger = logger
        self._ended_before, self._ended, self._total = ended, ended, total
        self._started = time.monotonic()

    def ended(self, trial: Trial, row: Row) -> None:
        """Print a line for a trial that has ended."""
        self._ended += 1
        text = f"trial {trial.number}{_variation(trial)}, seed {trial.seed}: {_result(row)}"
        metrics = {
            "trial": trial.number,
            "seed": trial.seed,
            "passed": bool(row.get("passed")),
            "failed": row["status"] == results.FAILED,
            "ended": self._ended,
            "total": self._total,
        }
        self._log(f"{text}  [{self._overall(0.0)}]", metrics, is_logged=True)

    def lost(self, trial: Trial, reason: str, attempt: int) -> None:
        """Print that a trial is started again."""
        line = f"trial {trial.number}: {reason}; it goes on, attempt {attempt}"
        self._log(line, {"trial": trial.number, "attempt": attempt}, is_logged=True)

    def standing(self, running: dict[int, Standing]) -> None:
        """Show what runs."""
        shares = sum(min(1.0, each.share) for each in running.values())
        parts = [f"{number}: {each.share:.0%}" for number, each in sorted(running.items())]
        line = f"{self._overall(shares)}, running {', '.join(parts)}"
        self._log(line, {}, is_logged=False)

    def _overall(self, shares: float) -> str:
        done = self._ended - self._ended_before + shares
        text = f"{self._ended:,} of {self._total:,} trials"
        if not done:
            return text
        seconds = time.monotonic() - self._started
        left = seconds / done * (self._total - self._ended_before - done)
        return f"{text}, {in_words(left)} left"

    def _log(self, line: str, metrics: Mapping[str, float], *, is_logged: bool) -> None:
        self._logger.log(Progress(line, metrics, is_logged=is_logged))


def _variation(trial: Trial) -> str:
    return f" ({trial.variation})" if trial.variation else ""


def _result(row: Row) -> str:
    if row["status"] != results.DONE:
        return f"{row['status']}: {row['reason']}"
    gate = "passed" if row["passed"] else f"gate not passed ({row['gate_failures']})"
    steps, seconds = results.number(row, "steps"), results.number(row, "train_seconds")
    return f"{gate}, {steps:,.0f} steps, {seconds:.1f} s"
