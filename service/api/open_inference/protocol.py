"""The Open Inference Protocol v2, for REST and gRPC: its tensors, its inference, its errors.

REST and gRPC differ in how a request is written. What it means, and what is wrong with it, is here.
"""

from array import array
from collections.abc import Collection, Sequence
from http import HTTPStatus
from math import isfinite
from time import perf_counter
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from service.api.ranges import values_out_of_range
from service.errors import ServiceError
from service.inference.backends import STATE_SIZE, Float32Array
from service.inference.errors import QValuesNotFiniteError
from service.inference.policy import Decisions, Inference, Policy, Rows, State
from service.types import Body

SERVER = "upright"
SERVER_VERSION = "1"  # of the API, as in the OpenAPI document
EXTENSIONS = [
    "binary_tensor_data",
    "model_repository",
    "model_configuration",
    "statistics",
]
INPUT = "state"
OUTPUTS = ("q_values", "action")
# The datatypes that a state may come in, with NumPy's names for them in bytes. What a value is in
# another type than FP32 must be so in FP32, too: whole numbers exactly, others as FP32 rounds them.
DATATYPES = {"FP32": "<f4", "FP64": "<f8", "FP16": "<f2", "INT32": "<i4", "INT64": "<i8"}
EXACT_INTEGER_LIMIT = 2**24  # up to it FP32 has every whole number
STRINGS_LIMIT = 1_000  # of a request's JSON: names and parameters
JSON_HEADROOM = 65_536  # bytes that a request may have beside its tensors
NO_LOAD_PARAMETERS = "a load takes no parameters here: the bundle's manifest is the configuration"
NO_UNLOAD = "the one model of this service cannot be unloaded: it is served until the service ends"


class OpenInferenceError(ServiceError):
    """Raised where a request of the Open Inference Protocol cannot be answered."""


def bad_request(message: str) -> OpenInferenceError:
    """Return the error of a request that is not as it must be."""
    return OpenInferenceError(HTTPStatus.BAD_REQUEST, message)


def too_fast(rate: int) -> OpenInferenceError:
    """Return the error of a message above a stream's rate, in messages a second."""
    return OpenInferenceError(
        HTTPStatus.TOO_MANY_REQUESTS,
        f"a stream may ask {rate} times a second; this message got no action",
    )


def internal_error() -> OpenInferenceError:
    """Return the error of a failure that nobody foresaw; the service logs it with its traceback."""
    message = "the service failed to answer; its log says why"
    return OpenInferenceError(HTTPStatus.INTERNAL_SERVER_ERROR, message)


def refused_load(digest: str, reason: str | None) -> OpenInferenceError:
    """Return the error of a load that failed, though the request was good.

    `digest` is that of the bundle that is still served; `reason` says what is wrong with the other.
    """
    return OpenInferenceError(HTTPStatus.CONFLICT, f"not loaded, {digest} is served on: {reason}")


class Tensor(NamedTuple):
    """One output tensor."""

    name: str
    datatype: str
    shape: list[int]
    values: list[float] | list[int] | NDArray[Any]  # row by row

    @property
    def data(self) -> list[float] | list[int]:
        """The values as Python's numbers."""
        values = self.values
        return values if isinstance(values, list) else cast("list[float]", values.tolist())

    @property
    def raw(self) -> bytes:
        """The values as little-endian bytes."""
        return np.asarray(self.values, DATATYPES[self.datatype]).tobytes()


def check_output_parameters(output: str, parameters: Collection[str]) -> None:
    """Refuse an output that is asked for as the most probable classes, or in shared memory.

    Raises `OpenInferenceError`.
    """
    for name in parameters:
        if name in ("classification", "class_count"):
            raise bad_request(f"{name}: the outputs are no classes; ask for q_values or action")
    refuse_shared_memory(f"output {output!r}", parameters)


def refuse_shared_memory(label: str, parameters: Collection[str]) -> None:
    """Refuse a tensor that lies in shared memory, or is to be written there.

    Raises `OpenInferenceError`.
    """
    if any(name.startswith("shared_memory") for name in parameters):
        raise bad_request(f"{label}: shared memory is not offered here")


def check_size(document: Body, max_batch: int) -> None:
    """Refuse JSON that holds more than any request that is answered, before it is validated.

    Hundreds of thousands of fields, known or not, fit into a body, and take most of a second.

    Raises `OpenInferenceError`.
    """
    if document.count(b'"') > 2 * STRINGS_LIMIT:
        raise bad_request(f"the request holds more than {STRINGS_LIMIT:,} strings")
    if document.count(b",") > STATE_SIZE * max_batch + STRINGS_LIMIT:
        raise bad_request(f"the request holds more values than {max_batch:,} states have")


def check_input(names: Sequence[str], datatype: str, shape: Sequence[int], max_batch: int) -> int:
    """Return the number of states of a request's one input tensor. Raises `OpenInferenceError`."""
    if list(names) != [INPUT]:
        raise bad_request(
            f"expected one input, {INPUT!r}, not {[name[:100] for name in names[:10]]}"
        )
    if datatype not in DATATYPES:
        raise bad_request(
            f"input {INPUT!r}: datatype must be {', '.join(DATATYPES)}, not {datatype[:100]!r}"
        )
    if len(shape) != 2 or shape[1] != STATE_SIZE or shape[0] < 1:
        raise bad_request(
            f"input {INPUT!r}: shape must be [n, {STATE_SIZE}] with n from 1, "
            f"not {list(shape[:10])}"
        )
    if shape[0] > max_batch:
        raise bad_request(
            f"input {INPUT!r}: holds {shape[0]} states; at most {max_batch} are answered at once"
        )
    return shape[0]


def states_of_raw(raw: Body, count: int, datatype: str) -> Float32Array:
    """Return the states, (count, 4), of little-endian bytes. Raises `OpenInferenceError`."""
    numpy_type = np.dtype(DATATYPES[datatype])
    expected = count * STATE_SIZE * numpy_type.itemsize
    if len(raw) != expected:
        raise bad_request(
            f"input {INPUT!r}: shape [{count}, {STATE_SIZE}] has {expected} bytes, found {len(raw)}"
        )
    return _cast(np.frombuffer(raw, numpy_type), count)


def states_of_numbers(numbers: Sequence[object], count: int, datatype: str) -> Float32Array:
    """Return the states, (count, 4), of numbers, either flat or in rows.

    Raises `OpenInferenceError`.
    """
    flat = _flatten(numbers, count)
    if len(flat) != count * STATE_SIZE:
        raise bad_request(
            f"input {INPUT!r}: shape [{count}, {STATE_SIZE}] has {count * STATE_SIZE} elements, "
            f"found {len(flat)}"
        )

    if set(map(type, flat)) == {float}:  # as most are
        values = cast("Sequence[float]", flat)
    else:
        values = [_number(value, index) for index, value in enumerate(flat)]
    if datatype.startswith("INT"):
        for index, value in enumerate(values):
            if not value.is_integer():
                raise bad_request(
                    f"input {INPUT!r}: element {index} must be a whole number, not {value}"
                )
        return _whole(np.array(values, np.float64), count)

    rounded = array("f", values)  # what is too large for it becomes infinite
    states = np.frombuffer(rounded, np.float32).reshape(count, STATE_SIZE)
    # A sum of 64-bit floats is finite where each value is, and quicker than to look at each.
    return states if isfinite(sum(rounded)) else _finite(states)


def _cast(values: np.ndarray[Any, np.dtype[Any]], count: int) -> Float32Array:
    """Return numbers of any of the datatypes as states, (count, 4)."""
    if values.dtype.kind == "i":
        return _whole(values, count)
    with np.errstate(over="ignore"):  # becomes infinite, and is refused as such
        return _finite(values.astype(np.float32).reshape(count, STATE_SIZE))


def _whole(values: np.ndarray[Any, np.dtype[Any]], count: int) -> Float32Array:
    is_exact = (values >= -EXACT_INTEGER_LIMIT) & (values <= EXACT_INTEGER_LIMIT)
    if not is_exact.all():
        index = int(is_exact.argmin())
        raise bad_request(
            f"input {INPUT!r}: element {index} is {int(values[index])}, which FP32 has not exactly"
        )
    return values.astype(np.float32).reshape(count, STATE_SIZE)


def infer(
    policy: Policy, states: Float32Array, output_names: Sequence[str], *, strict: bool
) -> tuple[list[Tensor], Inference]:
    """Return the outputs of these names, all if none is named, for `states`, (n, 4).

    The inference behind them comes with them. `strict` refuses states outside what training saw.
    Raises `OpenInferenceError`.
    """
    _check_outputs(output_names)
    rows: Sequence[State] = states.tolist() if len(states) == 1 else Rows(states)
    started = perf_counter()
    try:
        if len(rows) == 1:
            action, q_values, out_of_range = policy.decide_one(rows[0])
            decisions = Decisions([action], [q_values], [out_of_range])
        else:
            decisions = policy.decide(states)
    except QValuesNotFiniteError as error:
        raise _not_finite(error) from error
    seconds = perf_counter() - started
    if strict and any(decisions.out_of_range):
        raise _out_of_range(policy, rows, decisions.out_of_range)

    tensors = _tensors(decisions)
    inference = Inference(
        policy,
        rows,
        decisions.q_values,
        decisions.actions,
        decisions.out_of_range,
        seconds,
    )
    return [tensors[name] for name in output_names or OUTPUTS], inference


def _flatten(numbers: Sequence[object], count: int) -> Sequence[object]:
    """Return what stands in `count` rows of a state each, row by row; flat numbers as they are."""
    rows = [row for row in numbers if isinstance(row, list)]
    if not rows:
        return numbers

    is_regular = len(rows) == len(numbers) == count
    if not is_regular or any(len(row) != STATE_SIZE for row in rows):
        raise bad_request(
            f"input {INPUT!r}: data is nested, but not as {count} rows of {STATE_SIZE} numbers"
        )
    return [number for row in rows for number in row]


def _number(value: object, index: int) -> float:
    """Return an element as a float. JSON's true and false are no numbers, though Python's are."""
    if type(value) is not float and type(value) is not int:
        raise bad_request(
            f"input {INPUT!r}: element {index} must be a number, not {str(value)[:60]!r}"
        )
    try:
        return float(value)
    except OverflowError as error:
        raise bad_request(
            f"input {INPUT!r}: element {index} is not finite as a 32-bit float"
        ) from error


def _check_outputs(names: Sequence[str]) -> None:
    for index, name in enumerate(names):
        if name not in OUTPUTS:
            raise bad_request(f"there is no output {name[:100]!r}; there are {', '.join(OUTPUTS)}")
        if name in names[:index]:
            raise bad_request(f"output {name!r} is asked for twice")


def _tensors(decisions: Decisions) -> dict[str, Tensor]:
    """Return all outputs by their names."""
    q_values, actions = decisions.q_values, decisions.actions
    shape = [len(q_values), len(q_values[0])]
    if isinstance(q_values, Rows) and isinstance(actions, Rows):
        q_tensor = Tensor("q_values", "FP32", shape, q_values.array.reshape(-1))
        return {"q_values": q_tensor, "action": Tensor("action", "INT64", shape[:1], actions.array)}
    return {
        "q_values": Tensor("q_values", "FP32", shape, [value for row in q_values for value in row]),
        "action": Tensor("action", "INT64", shape[:1], list(actions)),
    }


def _out_of_range(
    policy: Policy, states: Sequence[State], out_of_range: Sequence[list[str]]
) -> OpenInferenceError:
    first = next(values_out_of_range(policy, states, out_of_range))
    count = sum(map(len, out_of_range))
    more = f" (and {count - 1} more)" if count > 1 else ""
    return OpenInferenceError(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        f"state {first.row}: {first.detail}{more}; no action was chosen",
    )


def _not_finite(error: QValuesNotFiniteError) -> OpenInferenceError:
    """Return the error of Q-values that are not finite.

    For a state as training saw them, the fault is the service's own.
    """
    if error.out_of_range:
        return bad_request(
            f"state {error.row}: the policy has no finite Q-values "
            "this far outside its training range"
        )
    return OpenInferenceError(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        f"state {error.row}: the policy has no finite Q-values here",
    )


def _finite(states: Float32Array) -> Float32Array:
    is_finite = np.isfinite(states)
    if not is_finite.all():
        raise bad_request(
            f"input {INPUT!r}: element {int(is_finite.argmin())} is not finite as a 32-bit float"
        )
    return states
