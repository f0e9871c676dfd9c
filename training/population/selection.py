"""Model selection: which agent of a population, at which point of training, is exported."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import JsonValue, TypeAdapter

from models.manifest import Plant
from training.envs.plant import STANDARD
from training.network import DQNetwork
from training.population.numpy_layers import NumpyLayers
from training.population.q_networks import network_of
from training.population.validation import Check, CheckResult
from training.population.validators import InlineValidator, Validator
from training.recipes import SelectionRule
from training.snapshot import Snapshot
from training.types import Array, Float64Array

# Checks that wait beside a training: more of them would only let it end before its validation.
MOST_PENDING = 4
# Before this share of the training no agent is good enough to be worth many episodes.
LONG_FROM = 0.7

Metrics = Mapping[str, float]  # what is reported of a check, as it stood when it began


@dataclass(frozen=True)
class BestAgent:
    """The agent that would be exported."""

    score: float  # of many episodes
    agent: int
    vector_steps: int  # when it was selected
    network: DQNetwork


@dataclass(frozen=True)
class Checked:
    """A check that has ended."""

    metrics: Metrics
    scores: Float64Array  # (K,), of a few episodes; 1 is perfect


@dataclass(frozen=True)
class _Pending:
    """A check that is under way, or waits for the one before it."""

    layers: NumpyLayers
    vector_steps: int
    is_long: bool
    metrics: Metrics


class ModelSelection:
    """The best agent so far, by one of two rules.

    `first`: the first agent that succeeds in every episode on the nominal plant. `best`: the one
    with the highest score over the hard scenarios, at any check near the end.
    """

    def __init__(
        self,
        rule: SelectionRule,
        hidden: tuple[int, ...],
        plant: Plant = STANDARD,
        validator: Validator | None = None,
    ) -> None:
        """Select among agents with these hidden layers, on a plant.

        Without a validator checks are done here, a part at each call of `poll`. One that works
        beside is of use by the rule `best` alone: by `first` its result decides whether to go on.
        """
        self.rule = rule
        self._hidden, self._plant = hidden, plant
        self._validator = InlineValidator() if validator is None else validator
        self.best: BestAgent | None = None
        self._pending: deque[_Pending] = deque()

    @property
    def is_pending(self) -> bool:
        """Whether a check has not ended."""
        return bool(self._pending)

    @property
    def is_waited_for(self) -> bool:
        """Whether no step may be taken before `poll` has returned the end of a check."""
        is_beside = self.rule == "best" and self._validator.is_beside
        return len(self._pending) >= (MOST_PENDING if is_beside else 1)

    @property
    def is_final(self) -> bool:
        """Whether no later agent would be selected."""
        return self.rule == "first" and self.best is not None

    def begin_check(
        self, layers: NumpyLayers, vector_steps: int, metrics: Metrics, *, progress: float
    ) -> None:
        """Begin to check all agents, as their weights are now; `progress` is the share done."""
        copied = [(weights.copy(), biases.copy()) for weights, biases in layers]
        self._pending.append(_Pending(copied, vector_steps, progress >= LONG_FROM, metrics))
        if len(self._pending) == 1:
            self._start()

    def poll(self, *, wait: bool) -> Checked | None:
        """Return the check that has ended, if one has, and select by it.

        With `wait` the caller has nothing else to do.
        """
        if not self._pending or (result := self._validator.poll(wait=wait)) is None:
            return None
        check = self._pending.popleft()
        self._select(check, result)
        if self._pending:
            self._start()
        return Checked(check.metrics, result.short_scores)

    def snapshot(self) -> Snapshot:
        """Return the best agent, if there is one, and the checks that have not ended.

        They begin anew where a training goes on from it.
        """
        parts = {f"check-{place}": _snapshot_of(check) for place, check in enumerate(self._pending)}
        values: dict[str, JsonValue] = {
            "selected": self.best is not None,
            "pending": len(self._pending),
        }
        best = self.best
        if best is not None:
            state = best.network.state_dict()
            parts["network"] = Snapshot({name: tensor.numpy() for name, tensor in state.items()})
            values |= {"score": best.score, "agent": best.agent, "vector_steps": best.vector_steps}
        return Snapshot({}, values, parts)

    def restore(self, snapshot: Snapshot) -> None:
        """Take over the best agent of a snapshot, and begin its checks anew."""
        places = range(snapshot.integer("pending"))
        self._pending = deque(_check_in(snapshot.parts[f"check-{place}"]) for place in places)
        if self._pending:
            self._start()
        if not snapshot.values["selected"]:
            self.best = None
            return

        network = DQNetwork(self._hidden)
        weights = snapshot.parts["network"].arrays
        network.load_state_dict(
            {name: torch.from_numpy(array.copy()) for name, array in weights.items()}
        )
        self.best = BestAgent(
            snapshot.number("score"),
            snapshot.integer("agent"),
            snapshot.integer("vector_steps"),
            network,
        )

    def _start(self) -> None:
        check = self._pending[0]
        self._validator.start(Check(self.rule, self._plant, check.layers, check.is_long))

    def _select(self, check: _Pending, result: CheckResult) -> None:
        for agent, score in result.long_scores.items():
            if self.rule == "first":
                is_selected = score == 1
            else:
                is_selected = self.best is None or score > self.best.score
            if is_selected:
                network = network_of(check.layers, agent)
                self.best = BestAgent(score, agent, check.vector_steps, network)


def _snapshot_of(check: _Pending) -> Snapshot:
    arrays: dict[str, Array] = {}
    for number, (weights, biases) in enumerate(check.layers):
        arrays |= {f"weights-{number}": weights, f"biases-{number}": biases}
    return Snapshot(
        arrays,
        {
            "vector_steps": check.vector_steps,
            "is_long": check.is_long,
            "metrics": dict(check.metrics),
        },
    )


def _check_in(snapshot: Snapshot) -> _Pending:
    arrays = snapshot.arrays
    layers = [
        (np.array(arrays[f"weights-{number}"]), np.array(arrays[f"biases-{number}"]))
        for number in range(len(arrays) // 2)
    ]
    metrics = TypeAdapter(dict[str, int | float]).validate_python(snapshot.values["metrics"])
    is_long = bool(snapshot.values["is_long"])
    return _Pending(layers, snapshot.integer("vector_steps"), is_long, metrics)
