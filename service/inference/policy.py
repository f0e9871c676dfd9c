"""A policy: states in, Q-values and greedy actions out."""

from collections.abc import Iterator, Sequence
from itertools import repeat
from math import isfinite
from threading import Lock
from typing import Any, Generic, NamedTuple, TypeVar, cast, overload

import numpy as np
from numpy.typing import NDArray

from models.bundle import Bundle
from service.inference.backends import (
    BLOCK_SIZE,
    LARGE_BLOCKS,
    STATE_SIZE,
    Backend,
    BackendName,
    Float32Array,
)
from service.inference.errors import QValuesNotFiniteError

State = tuple[float, float, float, float]
# The answer to one state: the action, the Q-values, and the names of the state values outside what
# training saw, a list that answers share. A plain tuple: one with names costs a fifth of a
# microsecond more to make.
Decision = tuple[int, list[float], list[str]]

Row = TypeVar("Row")


class Rows(Sequence[Row], Generic[Row]):
    """The rows of an array, which become Python's numbers when they are read.

    Nobody reads those of most batches, and to make them costs as much as the inference.
    """

    def __init__(self, array: NDArray[Any]) -> None:
        self.array = array

    def __len__(self) -> int:
        return len(self.array)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | Sequence[Row]:
        return cast("Row | Sequence[Row]", self.array[index].tolist())

    def __iter__(self) -> Iterator[Row]:
        return iter(self.array.tolist())

    def count(self, value: Any) -> int:
        """Return how many rows equal `value`, where a row is one number."""
        return int(np.count_nonzero(self.array == value))


class AllInRange(Sequence[list[str]]):
    """The names out of range of so many states that all are in range: none of each.

    Who meets one need not look at its rows, as in most batches.
    """

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> list[str]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[list[str]]: ...
    def __getitem__(self, index: int | slice) -> list[str] | Sequence[list[str]]:
        if isinstance(index, slice):
            return AllInRange(len(range(self._count)[index]))
        range(self._count)[index]  # raises `IndexError`
        return []

    def __iter__(self) -> Iterator[list[str]]:
        return repeat([], self._count)


class Inference(NamedTuple):
    """One run of a policy over some states, and what it answered, row by row."""

    policy: "Policy"
    states: Sequence[State]
    q_values: Sequence[list[float]]
    actions: Sequence[int]
    out_of_range: Sequence[list[str]]  # names of the state values outside what training saw
    seconds: float  # that the run took
    seq: int | None = None  # of the request, where its endpoint has one


class Decisions(NamedTuple):
    """The answers to some states, row by row."""

    actions: Sequence[int]
    q_values: Sequence[list[float]]
    out_of_range: Sequence[list[str]]  # as in `Inference`; rows share the lists


class Policy:
    """A bundle and the backend that answers from it. Threads may share it."""

    def __init__(self, bundle: Bundle, backend: Backend, backend_name: BackendName) -> None:
        self.bundle = bundle
        self.backend_name = backend_name
        self._backend = backend
        self._action_count = len(bundle.manifest.actions)
        # The arrays that the backend is ever given; the large ones join when they have agreed.
        self._block = np.zeros((BLOCK_SIZE, STATE_SIZE), np.float32)
        self._blocks = [(self._block, 1)]  # each with the rows left from which on it is taken
        # Writing a state through this view costs a third of what writing it to the array does.
        flat = memoryview(self._block)  # type: ignore[arg-type] # numpy's types for 3.11 do not declare the buffer
        self._first_row = flat.cast("B").cast("f")[:STATE_SIZE]
        self._block_lock = Lock()
        values = bundle.manifest.state
        self._low = np.array([value.training_min for value in values], np.float32)
        self._high = np.array([value.training_max for value in values], np.float32)
        self._ranges: list[tuple[float, float]] = list(
            zip(self._low.tolist(), self._high.tolist(), strict=True)
        )
        # The ends of the ranges, for as many rows as most batches have: comparing with one row goes
        # through the others four values at a time.
        self._low_rows, self._high_rows = (
            np.tile(ends, (max(LARGE_BLOCKS), 1)) for ends in (self._low, self._high)
        )
        # The names that are out of range, by a number with a bit for each value: bit 0 is the
        # first.
        self._names_by_code = [
            [value.name for bit, value in enumerate(values) if code >> bit & 1]
            for code in range(2 ** len(values))
        ]
        self._bits = 1 << np.arange(len(values))
        self._blocks = [*self._agreeing_blocks(), *self._blocks]

    def decide_one(self, state: State) -> Decision:
        """Return what `decide` returns for one state, at a third of its cost.

        Raises `QValuesNotFiniteError`.
        """
        row = self._first_row
        with self._block_lock:
            row[0], row[1], row[2], row[3] = state
            q_values: list[float] = self._backend.q_values(self._block)[0].tolist()
        x, v, θ, ω = state
        (low_x, high_x), (low_v, high_v), (low_θ, high_θ), (low_ω, high_ω) = self._ranges
        # What lies inside still does when it is rounded to 32 bits, since the ends are 32-bit
        # numbers. The rest is rounded before it is compared.
        inside = (
            low_x <= x <= high_x
            and low_v <= v <= high_v
            and low_θ <= θ <= high_θ
            and low_ω <= ω <= high_ω
        )
        out_of_range = (
            self._names_by_code[0]
            if inside
            else self._out_of_range(np.array([state], np.float32))[0]
        )
        if not isfinite(sum(q_values)):
            raise QValuesNotFiniteError(0, out_of_range)
        return q_values.index(max(q_values)), q_values, out_of_range

    def decide(self, states: Float32Array) -> Decisions:
        """Return the greedy action for each row of `states`, (n, 4): the first of the highest Q.

        Each row's answer is the same to the bit whatever rows come with it. Raises
        `QValuesNotFiniteError`.
        """
        out_of_range = self._out_of_range(states)
        q_values = self._q_values(states)
        finite = np.isfinite(q_values)
        if not finite.all():
            row = int(finite.all(axis=1).argmin())
            raise QValuesNotFiniteError(row, out_of_range[row])
        if len(states) > BLOCK_SIZE and self._action_count == 2:
            # What `argmax` would say, which goes through many rows four times as slowly.
            actions = (q_values[:, 1] > q_values[:, 0]).astype(np.int64)
        else:
            actions = q_values.argmax(axis=1)
        return Decisions(Rows(actions), Rows(q_values), out_of_range)

    def _out_of_range(self, states: Float32Array) -> Sequence[list[str]]:
        low, high = self._low, self._high
        if len(states) <= len(self._low_rows):
            low, high = self._low_rows[: len(states)], self._high_rows[: len(states)]
        inside = (low <= states) & (states <= high)
        if inside.all():
            return AllInRange(len(states))
        codes: list[int] = (~inside @ self._bits).tolist()
        return [self._names_by_code[code] for code in codes]

    def _q_values(self, states: Float32Array) -> Float32Array:
        """Return the Q-values of states, which the backend is given block by block."""
        count = len(states)
        if count <= BLOCK_SIZE:  # most requests, which the loop below would cost a microsecond
            with self._block_lock:
                self._block[:count] = states
                return self._backend.q_values(self._block)[:count].copy()

        q_values = np.empty((count, self._action_count), np.float32)
        start = 0
        with self._block_lock:
            while start < count:
                block = next(block for block, least in self._blocks if count - start >= least)
                rows = states[start : start + len(block)]
                # The rows below keep what was there: their answers are dropped.
                block[: len(rows)] = rows
                end = start + len(rows)
                q_values[start:end] = self._backend.q_values(block)[: len(rows)]
                start = end
        return q_values

    def _agreeing_blocks(self) -> Iterator[tuple[Float32Array, int]]:
        """Give the large blocks that give the same bits as the small one on this processor.

        A runtime may take another kernel for more rows, which rounds in another order; then one
        state would have two answers.
        """
        rng = np.random.default_rng(0)
        for size, least in LARGE_BLOCKS.items():
            block = np.empty((size, STATE_SIZE), np.float32)
            block[:] = self._low + rng.random(block.shape, np.float32) * (self._high - self._low)
            try:
                small = self._q_values(block.copy())
                large = self._backend.q_values(block)
            except Exception:  # whatever it is: the self-test meets it again, and tells it
                return
            if small.tobytes() == large.tobytes():
                yield block, least
