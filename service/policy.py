"""The policy: states in, Q-values and greedy actions out, by a backend that passed the bundle's self-test. Knows nothing of HTTP.

PolicyError
├── BackendUnavailableError  the backend is not installed, or the bundle has no artifact for it
├── SelfTestError            the artifact does not load, or does not reproduce the golden states
└── QValuesNotFiniteError    the policy has no finite answer for a state
"""

import io
import warnings
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from models.bundle import Bundle

Float32Array = NDArray[np.float32]
BackendName = Literal["onnx", "torchscript"]

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
        """Return the Q-values, (n, actions), of `states`, (n, 4)."""
        ...


class OnnxBackend:
    """The ONNX file, run by onnxruntime on one thread."""

    def __init__(self, content: bytes) -> None:
        options = onnxruntime.SessionOptions()
        # onnxruntime sizes its pool by the host's cores, not the container's quota, and its idle threads spin.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def q_values(self, states: Float32Array) -> Float32Array:
        """Return the Q-values, (n, actions), of `states`, (n, 4)."""
        result: Float32Array = self._session.run(["q_values"], {"state": states})[0]
        return result


class TorchScriptBackend:
    """The TorchScript archive, run by torch on one thread. Importing torch takes seconds, so only this backend does."""

    def __init__(self, content: bytes) -> None:
        import torch

        torch.set_num_threads(1)
        self._torch = torch
        with warnings.catch_warnings():
            # The format is kept for those who ask for it, though torch has deprecated it.
            warnings.filterwarnings("ignore", message=r"`torch\.jit\.load` is deprecated", category=DeprecationWarning)
            # The bytes are those whose SHA-256 was checked: loading an archive has no safe mode.
            self._module = torch.jit.load(io.BytesIO(content), map_location="cpu")  # type: ignore[no-untyped-call] # torch declares none
        self._module.eval()

    def q_values(self, states: Float32Array) -> Float32Array:
        """Return the Q-values, (n, actions), of `states`, (n, 4)."""
        with self._torch.inference_mode():
            result: Float32Array = self._module(self._torch.from_numpy(states)).numpy()
        return result


@dataclass(frozen=True)
class Decisions:
    """The answers to some states, row by row."""

    actions: list[int]
    q_values: list[list[float]]
    out_of_range: list[list[str]]  # names of the state values outside what training saw


class Policy:
    """A bundle and the backend that answers from it."""

    def __init__(self, bundle: Bundle, backend: Backend, backend_name: BackendName) -> None:
        self.bundle = bundle
        self.backend_name = backend_name
        self._backend = backend
        self._names = [value.name for value in bundle.manifest.state]
        self._low = np.array([value.seen_min for value in bundle.manifest.state], np.float32)
        self._high = np.array([value.seen_max for value in bundle.manifest.state], np.float32)

    def decide(self, states: Float32Array) -> Decisions:
        """Return the greedy action for each row of `states`, (n, 4): the first of the highest Q-values.

        Each row's answer is the same to the bit whatever rows come with it. Raises `QValuesNotFiniteError`.
        """
        outside = ((states < self._low) | (states > self._high)).tolist()
        out_of_range = [[name for name, out in zip(self._names, row, strict=True) if out] for row in outside]
        q_values = self._q_values(states)
        finite = np.isfinite(q_values).all(axis=1)
        if not finite.all():
            row = int(finite.argmin())
            raise QValuesNotFiniteError(row, out_of_range[row])
        return Decisions(q_values.argmax(axis=1).tolist(), q_values.tolist(), out_of_range)

    def _q_values(self, states: Float32Array) -> Float32Array:
        padded = np.zeros((-(-len(states) // BLOCK) * BLOCK, STATE_SIZE), np.float32)
        padded[: len(states)] = states
        blocks = [self._backend.q_values(padded[first : first + BLOCK]) for first in range(0, len(padded), BLOCK)]
        return np.concatenate(blocks)[: len(states)]


def load(bundle: Bundle, backend_name: BackendName) -> Policy:
    """Load a checked bundle's artifact and hold it to the golden states. Raises `BackendUnavailableError` or `SelfTestError`."""
    manifest = bundle.manifest
    if backend_name not in manifest.artifacts:
        raise BackendUnavailableError(
            f"{bundle.folder}: has no artifact for the {backend_name} backend; it has {', '.join(manifest.artifacts)}"
        )
    if len(manifest.state) != STATE_SIZE:
        raise SelfTestError(f"{bundle.folder}: the service answers states of {STATE_SIZE} values, this policy takes {len(manifest.state)}")
    file = bundle.folder / manifest.artifacts[backend_name].file
    kind = OnnxBackend if backend_name == "onnx" else TorchScriptBackend
    try:
        policy = Policy(bundle, kind(bundle.artifacts[backend_name]), backend_name)
    except ImportError as error:
        raise BackendUnavailableError(
            f"the {backend_name} backend needs torch, which is not installed; pip install 'upright[torchscript]'"
        ) from error
    except Exception as error:
        raise SelfTestError(f"{file}: the {backend_name} backend cannot load it: {_one_line(error)}") from error
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
        raise SelfTestError(f"{file}: the {policy.backend_name} backend cannot answer the golden states: {_one_line(error)}") from error
    if found.shape != expected.shape:
        raise SelfTestError(f"{file}: answers the golden states with Q-values of shape {found.shape}, expected {expected.shape}")
    tolerance = manifest.parity.absolute_tolerance + manifest.parity.relative_tolerance * np.abs(expected).max(axis=1, keepdims=True)
    wrong = ~(np.abs(found - expected) <= tolerance).all(axis=1)
    if wrong.any():
        row = int(wrong.argmax())
        raise SelfTestError(
            f"{file}: golden state {row} {states[row].tolist()} gives Q-values {found[row].tolist()} by the {policy.backend_name} backend,"
            f" expected {expected[row].tolist()}; export the bundle again with python -m training"
        )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
