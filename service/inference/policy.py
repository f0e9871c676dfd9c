"""The policy: states in, Q-values and greedy actions out, by a backend that passed the bundle's self-test. Knows nothing of HTTP.

PolicyError
├── BackendUnavailableError  the backend is not installed, or the bundle has no artifact for it
├── SelfTestError            the artifact does not load, or does not reproduce the golden states
└── QValuesNotFiniteError    the policy has no finite answer for a state
"""

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from threading import Lock
from typing import Literal, NamedTuple, Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from models.bundle import Bundle

Float32Array = NDArray[np.float32]
BackendName = Literal["onnx", "torchscript"]

State = tuple[float, float, float, float]
STATE_SIZE = 4
BLOCK = 16  # rows that a backend is always given: its rounding may depend on their number, and must not decide an action


class PolicyError(Exception):
    """Raised when a policy cannot be trusted or has no answer."""


class BackendUnavailableError(PolicyError):
    """Raised when the chosen backend cannot run here, or the bundle has nothing for it."""


class SelfTestError(PolicyError):
    """Raised when the loaded artifact is not the policy that the manifest describes."""


class QValuesNotFiniteError(PolicyError):
    """Raised when a Q-value is NaN or infinite: such an answer never becomes an action."""

    def __init__(self, row: int, out_of_range: list[str]) -> None:
        super().__init__(f"the policy has no finite Q-values for state {row}")
        self.row = row
        self.out_of_range = out_of_range


class Backend(Protocol):
    """What runs an artifact."""

    def q_values(self, states: Float32Array) -> Float32Array:
        """Return the Q-values, (n, actions), of `states`, (n, 4). The next call may overwrite them."""
        ...


class OnnxBackend:
    """The ONNX file, run by onnxruntime on one thread. Reads and writes in place while it is given the same array again and again."""

    def __init__(self, content: bytes) -> None:
        options = onnxruntime.SessionOptions()
        # onnxruntime sizes its pool by the host's cores, not the container's quota, and its idle threads spin.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        # For so small a network the planning and pooling of memory costs more than it saves: 2 µs of a request.
        options.enable_mem_pattern = options.enable_cpu_mem_arena = False
        options.log_severity_level = 4  # what it has to say comes with its exception, in one line
        # A model may name files that hold its weights; a bundle's never does, and no other file's hash was checked.
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", "/nonexistent"
        )
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(
            content, options, providers=["CPUExecutionProvider"]
        )
        self._bind(np.zeros((BLOCK, STATE_SIZE), np.float32))

    def _bind(self, states: Float32Array) -> None:
        result: Float32Array = self._session.run(["q_values"], {"state": states})[0]
        binding = self._session.io_binding()
        binding.bind_input("state", "cpu", 0, np.float32, states.shape, states.ctypes.data)
        binding.bind_output("q_values", "cpu", 0, np.float32, result.shape, result.ctypes.data)
        # The two arrays are kept as long as the binding, which knows only their addresses.
        self._binding, self._states, self._q_values = binding, states, result

    def q_values(self, states: Float32Array) -> Float32Array:
        """Return the Q-values, (n, actions), of `states`, (n, 4). The next call may overwrite them."""
        if states is not self._states:
            self._bind(np.ascontiguousarray(states, np.float32))
        self._session.run_with_iobinding(self._binding)
        return self._q_values


class TorchScriptBackend:
    """The TorchScript archive, run by torch on one thread. Importing torch takes seconds, so only this backend does."""

    def __init__(self, content: bytes) -> None:
        import torch

        torch.set_num_threads(1)
        self._torch = torch
        with warnings.catch_warnings():
            # The format is kept for those who ask for it, though torch has deprecated it.
            warnings.filterwarnings(
                "ignore", message=r"`torch\.jit\.load` is deprecated", category=DeprecationWarning
            )
            # The bytes are those whose SHA-256 was checked: loading an archive has no safe mode.
            self._module = torch.jit.load(io.BytesIO(content), map_location="cpu")  # type: ignore[no-untyped-call] # torch declares none
        self._module.eval()

    def q_values(self, states: Float32Array) -> Float32Array:
        """Return the Q-values, (n, actions), of `states`, (n, 4)."""
        with self._torch.inference_mode():
            result: Float32Array = self._module(self._torch.from_numpy(states)).numpy()
        return result


# The answer to one state: the action, the Q-values, and the names of the state values outside what training saw (shared between answers).
# A plain tuple: one with names costs a fifth of a microsecond more to make.
Decision = tuple[int, list[float], list[str]]


class Inference(NamedTuple):
    """One run of a policy over some states, and what it answered, row by row."""

    policy: "Policy"
    states: Sequence[State]
    q_values: Sequence[list[float]]
    actions: Sequence[int]
    out_of_range: Sequence[list[str]]  # names of the state values outside what training saw
    seconds: float  # that the run took
    seq: int | None = None  # of the request, where its endpoint has one


@dataclass(frozen=True)
class Decisions:
    """The answers to some states, row by row."""

    actions: list[int]
    q_values: list[list[float]]
    out_of_range: list[
        list[str]
    ]  # names of the state values outside what training saw; shared between rows


class Policy:
    """A bundle and the backend that answers from it. Threads may share it."""

    def __init__(self, bundle: Bundle, backend: Backend, backend_name: BackendName) -> None:
        self.bundle = bundle
        self.backend_name = backend_name
        self._backend = backend
        self._block = np.zeros(
            (BLOCK, STATE_SIZE), np.float32
        )  # the one array that the backend is ever given
        # Writing a state through this view costs a third of what writing it to the array does.
        flat = memoryview(self._block)  # type: ignore[arg-type] # numpy's types for 3.11 do not declare the buffer
        self._first = flat.cast("B").cast("f")[:STATE_SIZE]
        self._using_block = Lock()
        values = bundle.manifest.state
        self._low = np.array([value.seen_min for value in values], np.float32)
        self._high = np.array([value.seen_max for value in values], np.float32)
        self._ranges: list[tuple[float, float]] = list(
            zip(self._low.tolist(), self._high.tolist(), strict=True)
        )
        # The names that are out of range, by a number that has a bit for each value: bit 0 for the first.
        self._named = [
            [value.name for bit, value in enumerate(values) if code >> bit & 1]
            for code in range(2 ** len(values))
        ]
        self._bits = 1 << np.arange(len(values))

    def decide_one(self, state: State) -> Decision:
        """Return what `decide` returns for one state, at a third of its cost. Raises `QValuesNotFiniteError`."""
        first = self._first
        with self._using_block:
            first[0], first[1], first[2], first[3] = state
            q_values: list[float] = self._backend.q_values(self._block)[0].tolist()
        x, v, θ, ω = state
        (low_x, high_x), (low_v, high_v), (low_θ, high_θ), (low_ω, high_ω) = self._ranges
        # What lies inside still does so when it is rounded to 32 bits, for the ends are 32-bit numbers; the rest is looked at more closely.
        inside = (
            low_x <= x <= high_x
            and low_v <= v <= high_v
            and low_θ <= θ <= high_θ
            and low_ω <= ω <= high_ω
        )
        out_of_range = self._named[0] if inside else self._outside(np.array([state], np.float32))[0]
        if not isfinite(sum(q_values)):
            raise QValuesNotFiniteError(0, out_of_range)
        return q_values.index(max(q_values)), q_values, out_of_range

    def decide(self, states: Float32Array) -> Decisions:
        """Return the greedy action for each row of `states`, (n, 4): the first of the highest Q-values.

        Each row's answer is the same to the bit whatever rows come with it. Raises `QValuesNotFiniteError`.
        """
        out_of_range = self._outside(states)
        q_values = self._q_values(states)
        finite = np.isfinite(q_values).all(axis=1)
        if not finite.all():
            row = int(finite.argmin())
            raise QValuesNotFiniteError(row, out_of_range[row])
        return Decisions(q_values.argmax(axis=1).tolist(), q_values.tolist(), out_of_range)

    def _outside(self, states: Float32Array) -> list[list[str]]:
        inside = (self._low <= states) & (states <= self._high)
        codes: list[int] = (~inside @ self._bits).tolist()
        return [self._named[code] for code in codes]

    def _q_values(self, states: Float32Array) -> Float32Array:
        found = []
        with self._using_block:
            for first in range(0, len(states), BLOCK):
                rows = states[first : first + BLOCK]
                self._block[: len(rows)] = (
                    rows  # what stands in the rows below is nobody's: their answers are dropped
                )
                found.append(self._backend.q_values(self._block)[: len(rows)].copy())
        return np.concatenate(found)


def load(bundle: Bundle, backend_name: BackendName) -> Policy:
    """Load a checked bundle's artifact and hold it to the golden states. Raises `BackendUnavailableError` or `SelfTestError`."""
    manifest = bundle.manifest
    if backend_name not in manifest.artifacts:
        raise BackendUnavailableError(
            f"{bundle.folder}: has no artifact for the {backend_name} backend; it has {', '.join(manifest.artifacts)}"
        )
    if len(manifest.state) != STATE_SIZE:
        raise SelfTestError(
            f"{bundle.folder}: the service answers states of {STATE_SIZE} values, this policy takes {len(manifest.state)}"
        )
    file = bundle.folder / manifest.artifacts[backend_name].file
    kind = OnnxBackend if backend_name == "onnx" else TorchScriptBackend
    try:
        policy = Policy(bundle, kind(bundle.artifacts[backend_name]), backend_name)
    except ImportError as error:
        raise BackendUnavailableError(
            f"the {backend_name} backend needs torch, which is not installed: in a checkout, make setup"
        ) from error
    except Exception as error:
        raise SelfTestError(
            f"{file}: the {backend_name} backend cannot load it: {_one_line(error)}"
        ) from error
    _self_test(policy, str(file))
    return policy


def _self_test(policy: Policy, file: str) -> None:
    """Hold the policy to the golden states, within the tolerance that its export was held to.

    It is taken of the state's largest Q-value: where terms of that size cancel, another processor's rounding shows in the smaller one.
    """
    manifest = policy.bundle.manifest
    states = np.array([golden.state for golden in manifest.golden_states], np.float32)
    expected = np.array([golden.q_values for golden in manifest.golden_states], np.float32)
    try:
        found = np.array(policy.decide(states).q_values, np.float32)
    except Exception as error:
        raise SelfTestError(
            f"{file}: the {policy.backend_name} backend cannot answer the golden states: {_one_line(error)}"
        ) from error
    if found.shape != expected.shape:
        raise SelfTestError(
            f"{file}: answers the golden states with Q-values of shape {found.shape}, expected {expected.shape}"
        )
    tolerance = manifest.parity.absolute_tolerance + manifest.parity.relative_tolerance * np.abs(
        expected
    ).max(axis=1, keepdims=True)
    wrong = ~(np.abs(found - expected) <= tolerance).all(axis=1)
    if wrong.any():
        row = int(wrong.argmax())
        raise SelfTestError(
            f"{file}: golden state {row} {states[row].tolist()} gives Q-values {found[row].tolist()} by the {policy.backend_name} backend,"
            f" expected {expected[row].tolist()}; export the bundle again with python -m training"
        )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
