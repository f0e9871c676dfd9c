"""How long a sweep will take, before it is started."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from training.recipes import AnyRecipe
from training.sweep.results import Row, number
from training.sweep.trial import share_done
from training.train import trainer_for

MEASURED_SECONDS = 2.0  # of training, by which its length is judged
EVALUATION_SECONDS = 5.0  # export and evaluation of a policy that is alive for long, on one core


@dataclass(frozen=True)
class Duration:
    """What a sweep is expected to take."""

    trials: int
    trial_seconds: float
    slots: int  # trials at a time

    @property
    def hours(self) -> float:
        """Hours of all trials together."""
        return self.trials * self.trial_seconds / 3600

    @property
    def seconds(self) -> float:
        """Wall time from now on."""
        rounds = -(-self.trials // self.slots)
        return rounds * self.trial_seconds


def trial_seconds(rows: Sequence[Row]) -> float | None:
    """Return the mean length of trials that have ended; none where there are none."""
    pairs = ((number(row, "train_seconds"), number(row, "evaluation_seconds")) for row in rows)
    lengths = [one + other for one, other in pairs if one is not None and other is not None]
    return sum(lengths) / len(lengths) if lengths else None


def measure(recipe: AnyRecipe, clock: Callable[[], float] = time.monotonic) -> float:
    """Return how long a trial takes that trains to its limit, from its first seconds on one core.

    The first of them are left out, since nothing is learned while the replay buffer is filled.
    """
    trainer = trainer_for(recipe, 0, torch.device("cpu"))
    started = clock()
    marks: list[tuple[float, float]] = []  # time and share, at steps by which the share has grown
    while trainer.stopped is None and (clock() - started < MEASURED_SECONDS or len(marks) < 2):
        share = share_done(recipe, trainer.advance(lambda: clock() - started))
        if not marks or share > marks[-1][1]:
            marks.append((clock() - started, share))
    if trainer.stopped is not None:
        return clock() - started + EVALUATION_SECONDS

    middle = next(mark for mark in marks if mark[0] >= marks[-1][0] / 2)
    (early, share), (late, later_share) = (marks[0] if middle is marks[-1] else middle), marks[-1]
    speed = (later_share - share) / (late - early)
    return late + (1 - later_share) / speed + EVALUATION_SECONDS


def in_words(seconds: float) -> str:
    """Return a length of time as people say it, such as `1 h 20 min`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
