"""Inference of states whose request is known: what it asks for was looked at before.

Each returns None for what no good answer can be given for; who validates the whole request says
why.
"""

import functools
from array import array
from collections.abc import Sequence
from math import isfinite
from struct import Struct
from time import perf_counter

import numpy as np
from pydantic_core import from_json

from service.inference.backends import STATE_SIZE, Float32Array
from service.inference.errors import QValuesNotFiniteError
from service.inference.policy import Inference, Policy, Rows, State
from service.types import Body

STATE_BYTES = 16  # of four 32-bit floats
_STATE, _ACTION = Struct("<4f"), Struct("<q")


def infer_bytes(policy: Policy, body: Body, size: int) -> Inference | None:
    """Answer the states in the last `size` bytes of a body, little-endian 32-bit floats."""
    if size == STATE_BYTES:
        state: State = _STATE.unpack_from(body, len(body) - STATE_BYTES)
        return _infer_one(policy, state) if isfinite(sum(state)) else None
    states = np.frombuffer(body, "<f4", offset=len(body) - size).reshape(-1, STATE_SIZE)
    return _infer_many(policy, states) if np.isfinite(states).all() else None


def infer_numbers(policy: Policy, document: bytes, count: int) -> Inference | None:
    """Answer so many states, whose numbers a JSON array holds."""
    if document.count(b",") != count * STATE_SIZE - 1:
        return None
    try:
        numbers = from_json(document)
        if not {float, int}.issuperset(map(type, numbers)):
            return None
        rounded = array("f", numbers)  # what is too large for it becomes infinite
    except (ValueError, OverflowError):
        return None
    # A sum of 64-bit floats is finite where each value is, and quicker than to look at each.
    if len(rounded) != count * STATE_SIZE or not isfinite(sum(rounded)):
        return None
    if count == 1:
        x, v, θ, ω = rounded
        return _infer_one(policy, (x, v, θ, ω))
    return _infer_many(policy, np.frombuffer(rounded, np.float32).reshape(count, STATE_SIZE))


def _infer_one(policy: Policy, state: State) -> Inference | None:
    started = perf_counter()
    try:
        action, q_values, out_of_range = policy.decide_one(state)
    except QValuesNotFiniteError:
        return None
    seconds = perf_counter() - started
    return Inference(policy, [state], [q_values], [action], [out_of_range], seconds)


def _infer_many(policy: Policy, states: Float32Array) -> Inference | None:
    started = perf_counter()
    try:
        actions, q_values, out_of_range = policy.decide(states)
    except QValuesNotFiniteError:
        return None
    seconds = perf_counter() - started
    return Inference(policy, Rows(states), q_values, actions, out_of_range, seconds)


def q_value_bytes(q_values: Sequence[list[float]]) -> bytes:
    """Return Q-values, row by row, as little-endian 32-bit floats."""
    if isinstance(q_values, Rows):
        return q_values.array.tobytes()
    return _floats(len(q_values[0])).pack(*q_values[0])


def action_bytes(actions: Sequence[int]) -> bytes:
    """Return actions as little-endian 64-bit integers."""
    return actions.array.tobytes() if isinstance(actions, Rows) else _ACTION.pack(actions[0])


@functools.cache
def _floats(count: int) -> Struct:
    return Struct(f"<{count}f")
