"""Tensors of the Open Inference Protocol: names, shapes and numbers in, checked states out. The same for REST and gRPC; knows neither.

OipError  the caller asked for something that there is not, or in a way that cannot be answered
"""

from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from time import perf_counter

import numpy as np

from service.inference.policy import (
    STATE_SIZE,
    Float32Array,
    Inference,
    Policy,
    QValuesNotFiniteError,
)

SERVER = "upright"
SERVER_VERSION = "1"  # of the doors, as in the OpenAPI document
EXTENSIONS = ["binary_tensor_data", "model_repository", "model_configuration"]
PLATFORM = "onnx_onnxv1"
INPUT = "state"
OUTPUTS = ("q_values", "action")
FLOAT_SIZE, INTEGER_SIZE = 4, 8  # bytes of an FP32 and of an INT64


class OpenInferenceError(Exception):
    """Raised where a request cannot be answered; holds the HTTP status that fits and what the caller is told."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


def bad_request(message: str) -> OpenInferenceError:
    """Return the error of a request that is not as it must be."""
    return OpenInferenceError(HTTPStatus.BAD_REQUEST, message)


@dataclass(frozen=True)
class Tensor:
    """One output tensor."""

    name: str
    datatype: str
    shape: list[int]
    raw: bytes  # little-endian, row by row
    data: list[float] | list[int]  # the same, as numbers


def metadata(policy: Policy) -> dict[str, object]:
    """Return what the protocol calls the model's metadata."""
    manifest = policy.bundle.manifest
    return {
        "name": manifest.name,
        "versions": [manifest.version],
        "platform": PLATFORM,
        "inputs": [{"name": INPUT, "datatype": "FP32", "shape": [-1, STATE_SIZE]}],
        "outputs": [
            {"name": "q_values", "datatype": "FP32", "shape": [-1, len(manifest.actions)]},
            {"name": "action", "datatype": "INT64", "shape": [-1]},
        ],
    }


def config(policy: Policy, max_batch: int) -> dict[str, object]:
    """Return the model as Triton's own configuration would describe it; shapes are without the batch."""
    manifest = policy.bundle.manifest
    return {
        "name": manifest.name,
        "platform": PLATFORM,
        "max_batch_size": max_batch,
        "input": [{"name": INPUT, "data_type": "TYPE_FP32", "dims": [STATE_SIZE]}],
        "output": [
            {"name": "q_values", "data_type": "TYPE_FP32", "dims": [len(manifest.actions)]},
            {"name": "action", "data_type": "TYPE_INT64", "dims": []},
        ],
    }


def check_model(policy: Policy, name: str, version: str | None) -> None:
    """Refuse a model or a version that is not served. Raises `OipError` with status 404."""
    manifest = policy.bundle.manifest
    if name != manifest.name:
        raise OpenInferenceError(
            HTTPStatus.NOT_FOUND, f"there is no model {name[:100]!r}; {manifest.name!r} is served"
        )
    if version and version != manifest.version:
        raise OpenInferenceError(
            HTTPStatus.NOT_FOUND,
            f"there is no version {version[:100]!r} of {name!r}; version {manifest.version!r} is served",
        )


def check_input(names: Sequence[str], datatype: str, shape: Sequence[int], max_batch: int) -> int:
    """Return the number of states of a request's one input tensor. Raises `OipError`."""
    if list(names) != [INPUT]:
        raise bad_request(
            f"expected one input, {INPUT!r}, not {[name[:100] for name in names[:10]]}"
        )
    if datatype != "FP32":
        raise bad_request(f"input {INPUT!r}: datatype must be FP32, not {datatype[:100]!r}")
    if len(shape) != 2 or shape[1] != STATE_SIZE or shape[0] < 1:
        raise bad_request(
            f"input {INPUT!r}: shape must be [n, {STATE_SIZE}] with n from 1, not {list(shape[:10])}"
        )
    if shape[0] > max_batch:
        raise bad_request(
            f"input {INPUT!r}: holds {shape[0]} states; at most {max_batch} are answered at once"
        )
    return shape[0]


def states_of_raw(raw: bytes, count: int) -> Float32Array:
    """Return the states, (count, 4), of little-endian FP32 bytes. Raises `OipError`."""
    expected = count * STATE_SIZE * FLOAT_SIZE
    if len(raw) != expected:
        raise bad_request(
            f"input {INPUT!r}: shape [{count}, {STATE_SIZE}] has {expected} bytes, found {len(raw)}"
        )
    return _finite(np.frombuffer(raw, "<f4").astype(np.float32).reshape(count, STATE_SIZE))


def states_of_numbers(numbers: Sequence[object], count: int) -> Float32Array:
    """Return the states, (count, 4), of numbers, either flat or in rows. Raises `OipError`."""
    rows = [row for row in numbers if isinstance(row, list)]
    if rows:
        if (
            len(rows) != len(numbers)
            or len(rows) != count
            or any(len(row) != STATE_SIZE for row in rows)
        ):
            raise bad_request(
                f"input {INPUT!r}: data is nested, but not as {count} rows of {STATE_SIZE} numbers"
            )
        numbers = [number for row in rows for number in row]
    if len(numbers) != count * STATE_SIZE:
        raise bad_request(
            f"input {INPUT!r}: shape [{count}, {STATE_SIZE}] has {count * STATE_SIZE} elements, found {len(numbers)}"
        )
    values: list[float] = []
    for place, number in enumerate(numbers):
        if type(number) not in (float, int):
            raise bad_request(
                f"input {INPUT!r}: element {place} must be a number, not {str(number)[:60]!r}"
            )
        try:
            values.append(float(number))  # type: ignore[arg-type] # its type was just looked at
        except OverflowError as error:
            raise bad_request(
                f"input {INPUT!r}: element {place} is not finite as a 32-bit float"
            ) from error
    with np.errstate(over="ignore"):  # becomes infinite, and is refused as such
        return _finite(np.array(values, np.float64).astype(np.float32).reshape(count, STATE_SIZE))


def infer(
    policy: Policy, states: Float32Array, requested: Sequence[str]
) -> tuple[list[Tensor], Inference]:
    """Return the requested outputs, all if none is named, for `states`, (n, 4), and the inference behind them. Raises `OipError`."""
    for number, name in enumerate(requested):
        if name not in OUTPUTS:
            raise bad_request(f"there is no output {name[:100]!r}; there are {', '.join(OUTPUTS)}")
        if name in requested[:number]:
            raise bad_request(f"output {name!r} is asked for twice")
    started = perf_counter()
    try:
        decisions = policy.decide(states)
    except QValuesNotFiniteError as error:
        if error.out_of_range:
            raise bad_request(
                f"state {error.row}: the policy has no finite Q-values this far outside its training range"
            ) from error
        raise OpenInferenceError(
            HTTPStatus.INTERNAL_SERVER_ERROR,
            f"state {error.row}: the policy has no finite Q-values here",
        ) from error
    seconds = perf_counter() - started
    q_values = np.array(decisions.q_values, "<f4")
    tensors = {
        "q_values": Tensor(
            "q_values",
            "FP32",
            list(q_values.shape),
            q_values.tobytes(),
            [value for row in decisions.q_values for value in row],
        ),
        "action": Tensor(
            "action",
            "INT64",
            [len(states)],
            np.array(decisions.actions, "<i8").tobytes(),
            decisions.actions,
        ),
    }
    inference = Inference(
        policy,
        states.tolist(),
        decisions.q_values,
        decisions.actions,
        decisions.out_of_range,
        seconds,
    )
    return [tensors[name] for name in requested or OUTPUTS], inference


def _finite(states: Float32Array) -> Float32Array:
    finite = np.isfinite(states)
    if not finite.all():
        raise bad_request(
            f"input {INPUT!r}: element {int(finite.argmin())} is not finite as a 32-bit float"
        )
    return states
