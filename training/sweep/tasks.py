"""Trials as Ray tasks: started where there is room, and again where a process or machine died."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from training.sweep import results
from training.sweep.results import Row
from training.sweep.storage import Storage
from training.sweep.trial import TrialFunction, Work
from training.sweep.trials import Trial
from training.trainer import Progress

IN_FLIGHT = 128  # tasks that Ray knows of at a time; more would only fill its memory
WAIT_SECONDS = 0.5
REPORT_SECONDS = 1.0  # between two reports of one trial


@dataclass(frozen=True)
class Resources:
    """What one trial occupies. Half a GPU lets two trials share one."""

    cpus: float = 1.0
    gpus: float = 0.0


@dataclass(frozen=True)
class Standing:
    """Where one trial stands, as its process has last told."""

    share: float
    line: str


class Observer(Protocol):
    """Who is told of a sweep while it runs."""

    def ended(self, trial: Trial, row: Row) -> None:
        """Learn that a trial has ended, well or not; the row tells."""

    def lost(self, trial: Trial, reason: str, attempt: int) -> None:
        """Learn that a trial is started again, since its process or machine died."""

    def standing(self, running: dict[int, Standing]) -> None:
        """Learn where those trials stand that run now, by their number."""


@dataclass
class Attempts:
    """How often each trial was started."""

    most: int
    of_trial: dict[int, int] = field(default_factory=dict)

    def next(self, trial: Trial) -> int:
        """Count one more, and return how many there are."""
        self.of_trial[trial.number] = self.of_trial.get(trial.number, 0) + 1
        return self.of_trial[trial.number]

    def left(self, trial: Trial) -> bool:
        """Return whether it may be started again."""
        return self.of_trial[trial.number] < self.most


class Board:
    """Where trials write how far they are; an actor, which the driver reads."""

    def __init__(self) -> None:
        self._standing: dict[int, Standing] = {}

    def report(self, number: int, standing: Standing | None) -> None:
        """Replace what is known of a trial; none where it has ended."""
        if standing is None:
            self._standing.pop(number, None)
        else:
            self._standing[number] = standing

    def read(self) -> dict[int, Standing]:
        """Return what is known of the trials that run."""
        return self._standing


def run_trials(
    work: Work,
    trials: Sequence[Trial],
    *,
    run_trial: TrialFunction,
    resources: Resources,
    attempts: int,
    observer: Observer,
    interrupted: Callable[[], bool] = lambda: False,
) -> None:
    """Run trials on all processors of a connected Ray, until all have ended or somebody interrupts.

    A trial whose process or machine dies is started again, up to `attempts` times in all. One that
    raises has failed: it would do so again. Its row says why.
    """
    _Driver(work, run_trial, resources, attempts, observer).run(trials, interrupted)


class _Driver:
    """The loop that keeps Ray busy."""

    def __init__(
        self,
        work: Work,
        run_trial: TrialFunction,
        resources: Resources,
        attempts: int,
        observer: Observer,
    ) -> None:
        import ray

        self._ray = ray
        self._work, self._observer = work, observer
        self._attempts = Attempts(attempts)
        self._storage = Storage(work.storage)
        self._running: dict[Any, Trial] = {}
        self._task = ray.remote(num_cpus=resources.cpus, num_gpus=resources.gpus, max_retries=0)(
            _run_and_report
        )
        self._run_trial = run_trial
        # Beside the driver: it must not go with a machine that may be taken away.
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=True
        )
        self._board: Any = ray.remote(num_cpus=0, max_restarts=-1, scheduling_strategy=here)(
            Board
        ).remote()
        self._read_at = time.monotonic()

    def run(self, trials: Sequence[Trial], interrupted: Callable[[], bool]) -> None:
        waiting = deque(trials)
        while (waiting or self._running) and not interrupted():
            while waiting and len(self._running) < IN_FLIGHT:
                self._start(waiting.popleft())

            for task in self._finished():
                trial = self._running.pop(task)
                if not self._take(task, trial):
                    waiting.appendleft(trial)
            self._read_board()

    def _start(self, trial: Trial) -> None:
        attempt = self._attempts.next(trial)
        task = self._task.remote(self._run_trial, self._work, trial, attempt, self._board)
        self._running[task] = trial

    def _finished(self) -> list[Any]:
        """Return the tasks that have ended, after waiting for one for a moment."""
        tasks = list(self._running)
        done, _ = self._ray.wait(tasks, timeout=WAIT_SECONDS)
        if done:
            done, _ = self._ray.wait(tasks, num_returns=len(tasks), timeout=0)
        finished: list[Any] = done
        return finished

    def _take(self, task: Any, trial: Trial) -> bool:
        """Take over what a task left. Returns false where it is to be started again."""
        errors = self._ray.exceptions
        try:
            row = self._ray.get(task)
        except errors.RayTaskError as error:
            self._fail(trial, reason_of(error.cause or error))
            return True
        except errors.RayError as error:  # of a process or machine that is gone
            reason = reason_of(error)
            if not self._attempts.left(trial):
                self._fail(trial, f"given up after {self._attempts.most} attempts: {reason}")
                return True
            self._observer.lost(trial, reason, self._attempts.of_trial[trial.number] + 1)
            return False
        self._observer.ended(trial, row)
        return True

    def _fail(self, trial: Trial, reason: str) -> None:
        row = results.row_without_policy(
            self._work.sweep,
            trial,
            results.FAILED,
            reason=reason,
            attempts=self._attempts.of_trial[trial.number],
        )
        self._storage.write(results.path_of(trial), results.to_json(row))
        self._observer.ended(trial, row)

    def _read_board(self) -> None:
        if time.monotonic() < self._read_at + REPORT_SECONDS:
            return
        self._read_at = time.monotonic()
        try:
            running = self._ray.get(self._board.read.remote(), timeout=REPORT_SECONDS)
        except self._ray.exceptions.RayError:
            return  # it comes back empty
        numbers = {trial.number for trial in self._running.values()}
        self._observer.standing({n: standing for n, standing in running.items() if n in numbers})


def _run_and_report(
    run_trial: TrialFunction, work: Work, trial: Trial, attempt: int, board: Any
) -> Row:
    """Run a trial in a process of Ray's, and tell the board how far it is."""
    reported_at = -REPORT_SECONDS

    def report(share: float, progress: Progress) -> None:
        nonlocal reported_at
        if time.monotonic() - reported_at >= REPORT_SECONDS:
            reported_at = time.monotonic()
            board.report.remote(trial.number, Standing(share, progress.line))

    row = run_trial(work, trial, attempt, report)
    board.report.remote(trial.number, None)
    return row


def reason_of(error: BaseException) -> str:
    """Return an error as one line."""
    text = " ".join(str(error).split())[:500]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
