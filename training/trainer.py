"""A run of training: what a way of training must offer, what it reports on its way and what it leaves behind."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from numpy.typing import NDArray
from pydantic import JsonValue

from training.network import DQNetwork
from training.recipes import AnyRecipe

ENVIRONMENT = "CartPole-v1"

Stopped = Literal["solved", "limit", "interrupted"]


@dataclass(frozen=True)
class Progress:
    """Where training stands: a line for people, and figures for programs."""

    line: str
    figures: Mapping[
        str, float
    ]  # by name; the first counts, and `steps` and `seconds` are always among them
    kept: bool  # worth keeping, not only showing


@dataclass(frozen=True)
class Snapshot:
    """All that the rest of a training depends on: going on from it gives the same weights, bit for bit, as never having stopped."""

    arrays: dict[str, NDArray[Any]]
    values: dict[str, JsonValue]


class Trainer(Protocol):
    """One way of training, made ready to go on at any time."""

    history: list[dict[str, float]]  # rows with the same names in each; the first name counts them
    stopped: Stopped | None  # none while there is more to do

    @property
    def network(self) -> DQNetwork:
        """What would be exported now."""
        ...

    @property
    def steps(self) -> int:
        """Environment steps so far, of all agents together."""
        ...

    def advance(self, elapsed: Callable[[], float]) -> Progress:
        """Train a little further, until there is something to show; `elapsed` tells the seconds that training took so far."""
        ...

    def states_seen(self) -> dict[str, Any]:
        """Return range and quantiles of the states so far, as `StatesSeen.summary` gives them."""
        ...

    def snapshot(self) -> Snapshot:
        """Return all that the rest depends on; its arrays may be views that the next `advance` changes."""
        ...

    def restore(self, snapshot: Snapshot) -> None:
        """Take the place of the trainer that gave the snapshot."""
        ...


@dataclass(frozen=True)
class Run:
    """What a training run leaves behind."""

    recipe: AnyRecipe
    seed: int
    device: str
    network: DQNetwork
    history: list[dict[str, float]]
    steps: int
    seconds: float
    stopped: Stopped
    states_seen: dict[str, Any]


Report = Callable[[Progress], None]
