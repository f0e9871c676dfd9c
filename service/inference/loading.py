"""Loads the artifact of a bundle into a policy, and holds it to the bundle's golden states."""

import numpy as np

from models.bundle import Bundle
from service.inference.backends import (
    STATE_SIZE,
    Backend,
    BackendName,
    OnnxBackend,
    TorchScriptBackend,
)
from service.inference.errors import BackendUnavailableError, NotAdmittedError, SelfTestError
from service.inference.onnx_graph import GraphError, check_graph
from service.inference.policy import Policy
from service.inference.torchscript_code import CodeError, checked_archive


def load(bundle: Bundle, backend_name: BackendName) -> Policy:
    """Load a checked bundle's artifact and hold it to the golden states.

    Raises `BackendUnavailableError`, `NotAdmittedError` or `SelfTestError`.
    """
    manifest = bundle.manifest
    if backend_name not in manifest.artifacts:
        raise BackendUnavailableError(
            f"{bundle.folder}: has no artifact for the {backend_name} backend;"
            f" it has {', '.join(manifest.artifacts)}"
        )
    if len(manifest.state) != STATE_SIZE:
        raise SelfTestError(
            f"{bundle.folder}: the service answers states of {STATE_SIZE} values,"
            f" this policy takes {len(manifest.state)}"
        )
    file = bundle.folder / manifest.artifacts[backend_name].file
    content = bundle.artifacts[backend_name]
    try:
        if backend_name == "onnx":
            check_graph(content)
            backend: Backend = OnnxBackend(content)
        else:
            backend = TorchScriptBackend(checked_archive(content))
        policy = Policy(bundle, backend, backend_name)
    except (GraphError, CodeError) as error:
        raise NotAdmittedError(f"{file}: {error}") from error
    except ImportError as error:
        raise BackendUnavailableError(
            f"the {backend_name} backend needs torch, which is not installed:"
            " in a checkout, make setup"
        ) from error
    except Exception as error:
        raise SelfTestError(
            f"{file}: the {backend_name} backend cannot load it: {_one_line(error)}"
        ) from error
    _self_test(policy, str(file))
    return policy


def _self_test(policy: Policy, file: str) -> None:
    """Hold the policy to the golden states, each within its own tolerance."""
    manifest = policy.bundle.manifest
    states = np.array([golden.state for golden in manifest.golden_states], np.float32)
    expected = np.array([golden.q_values for golden in manifest.golden_states], np.float32)
    try:
        q_values = np.array(policy.decide(states).q_values, np.float32)
    except Exception as error:
        raise SelfTestError(
            f"{file}: the {policy.backend_name} backend cannot answer the golden states:"
            f" {_one_line(error)}"
        ) from error
    if q_values.shape != expected.shape:
        raise SelfTestError(
            f"{file}: answers the golden states with Q-values of shape {q_values.shape},"
            f" expected {expected.shape}"
        )
    tolerance = np.array([[golden.tolerance] for golden in manifest.golden_states])
    wrong = ~(np.abs(q_values - expected) <= tolerance).all(axis=1)
    if wrong.any():
        row = int(wrong.argmax())
        raise SelfTestError(
            f"{file}: golden state {row} {states[row].tolist()} gives Q-values"
            f" {q_values[row].tolist()} by the {policy.backend_name} backend,"
            f" expected {expected[row].tolist()}; export the bundle again with python -m training"
        )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
