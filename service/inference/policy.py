"""A policy: states in, Q-values and greedy actions out."""

from collections.abc import Iterator, Sequence
from math import isfinite
from threading import Lock
from typing import Any, Generic, NamedTuple, TypeVar, cast, overload

import numpy as np
from numpy.typing import NDArray

from models.bundle import Bundle
from service.inference.backends import (
    BLOCK_SIZE,
    LARGE_BLOCK_SIZE,
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
        # The two arrays that the backend is ever given.
        self._block = np.zeros((BLOCK_SIZE, STATE_SIZE), np.float32)
        self._large_block = np.zeros((LARGE_BLOCK_SIZE, STATE_SIZE), np.float32)
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
        # The names that are out of range, by a number with a bit for each value: bit 0 is the
        # first.
        self._names_by_code = [
            [value.name for bit, value in enumerate(values) if code >> bit & 1]
            for code in range(2 ** len(values))
        ]
        self._bits = 1 << np.arange(len(values))
        self._has_large_blocks = self._large_blocks_agree()

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
        return Decisions(Rows(q_values.argmax(axis=1)), Rows(q_values), out_of_range)

    def _out_of_range(self, states: Float32Array) -> list[list[str]]:
        inside = (self._low <= states) & (states <= self._high)
        if inside.all():
            return [self._names_by_code[0]] * len(states)
        codes: list[int] = (~inside @ self._bits).tolist()
        return [self._names_by_code[code] for code in codes]

    def _q_values(self, states: Float32Array) -> Float32Array:
        is_large = self._has_large_blocks and len(states) >= LARGE_BLOCK_SIZE // 4
        return self._run(states, self._large_block if is_large else self._block)

    def _run(self, states: Float32Array, block: Float32Array) -> Float32Array:
        """Return the Q-values of states, which the backend is given block by block."""
        if len(states) <= len(block):
            with self._block_lock:
                block[: len(states)] = states
                return self._backend.q_values(block)[: len(states)].copy()

        blocks = []
        with self._block_lock:
            for start in range(0, len(states), len(block)):
                rows = states[start : start + len(block)]
                # The rows below keep what was there: their answers are dropped.
                block[: len(rows)] = rows
                blocks.append(self._backend.q_values(block)[: len(rows)].copy())
        return np.concatenate(blocks)

    def _large_blocks_agree(self) -> bool:
        """Return whether large blocks give the same bits as small ones on this processor.

        A runtime may take another kernel for more rows, which rounds in another order; then one
        state would have two answers.
        """
        rng = np.random.default_rng(0)
        shares = rng.random((LARGE_BLOCK_SIZE, STATE_SIZE), np.float32)
        states = self._low + shares * (self._high - self._low)
        try:
            small, large = (self._run(states, block) for block in (self._block, self._large_block))
        except Exception:  # whatever a backend raises: the self-test meets it again, and tells it
            return False
        return small.tobytes() == large.tobytes()
