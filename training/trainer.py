"""What a way of training must offer, what it reports on its way and what it leaves behind."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from pydantic import TypeAdapter

from training.envs.state_statistics import StateSummary
from training.network import DQNetwork
from training.recipes import AnyRecipe
from training.snapshot import Snapshot

Stopped = Literal["solved", "limit", "interrupted"]
History = list[dict[str, float]]  # rows with the same names in each; the first name counts them


@dataclass(frozen=True)
class Progress:
    """Where training stands: a line for people, and metrics for programs."""

    line: str
    # By name; the first counts, and `steps` and `seconds` are always among them.
    metrics: Mapping[str, float]
    is_logged: bool  # worth a line of the log, not only a look at the live line


class Trainer(Protocol):
    """One way of training, which can be stopped between two calls of `advance`."""

    history: History
    stopped: Stopped | None  # none while there is more to do

    @property
    def network(self) -> DQNetwork:
        """The network that would be exported now."""
        ...

    @property
    def steps(self) -> int:
        """Environment steps so far, of all agents together."""
        ...

    def advance(self, elapsed: Callable[[], float]) -> Progress:
        """Train until there is something to report.

        `elapsed` returns the seconds that the whole training took so far.
        """
        ...

    def state_summary(self) -> StateSummary | None:
        """Return range and quantiles of the states so far; none while there was no state."""
        ...

    def snapshot(self) -> Snapshot:
        """Return all that the rest of the training depends on."""
        ...

    def restore(self, snapshot: Snapshot) -> None:
        """Take over the state of the trainer that gave the snapshot."""
        ...


@dataclass(frozen=True)
class Run:
    """What a training leaves behind."""

    recipe: AnyRecipe
    seed: int
    device: str
    processor: str
    network: DQNetwork
    history: History
    steps: int
    seconds: float
    stopped: Stopped
    state_summary: StateSummary | None


OnProgress = Callable[[Progress], None]


def stopped_in(snapshot: Snapshot) -> Stopped | None:
    """Return why a training had stopped when it gave the snapshot; none if it had not."""
    return TypeAdapter(Stopped | None).validate_python(snapshot.values["stopped"])
