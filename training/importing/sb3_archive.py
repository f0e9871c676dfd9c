"""Reads the archive that `DQN.save` of Stable-Baselines3 writes, for its weights alone.

The archive also holds `data`, JSON with pickles in it: those are never unpickled, and only the
plain texts beside them are read.
"""

import json
from typing import Any

from models.text import printable
from training.evaluation.runtimes import PolicyFileError
from training.importing.layers import DenseLayer
from training.importing.state_dict import open_archive, read_entry, read_state_dict

POLICY, DATA, VERSION = "policy.pth", "data", "_stable_baselines3_version"
DQN_POLICY = "stable_baselines3.dqn.policies"


def read_sb3(content: bytes) -> tuple[list[DenseLayer], str]:
    """Return the layers of the Q-network, and the library with its version.

    Raises `PolicyFileError` where the archive is of another algorithm or activation.
    """
    with open_archive(content) as archive:
        names = archive.namelist()
        data = _data(read_entry(archive, DATA)) if DATA in names else {}
        version = read_entry(archive, VERSION) if VERSION in names else b""
        policy = read_entry(archive, POLICY)

    _check_algorithm(data)
    try:
        layers = read_state_dict(policy)
    except PolicyFileError as error:
        raise PolicyFileError(f"{POLICY} in it {error}") from error
    number = printable(version[:50].decode("utf-8", "replace").strip())
    return layers, f"stable-baselines3 {number}".strip()


def _data(text: bytes) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PolicyFileError(f"{DATA} in it is no JSON ({error})") from error
    return data if isinstance(data, dict) else {}


def _check_algorithm(data: dict[str, Any]) -> None:
    module = _text(data, "policy_class", "__module__")
    if module not in ("", DQN_POLICY):
        raise PolicyFileError(
            f"holds a policy of {printable(module[:100])}; only those of DQN have Q-values"
            f" ({DQN_POLICY})"
        )
    activation = _text(data, "policy_kwargs", "activation_fn")
    if activation and not activation.endswith(".ReLU'>"):
        raise PolicyFileError(
            f"has the activation {printable(activation[:100])}; the service runs ReLU"
        )


def _text(data: dict[str, Any], *path: str) -> str:
    """Return a text inside nested objects; an empty one where there is none."""
    value: Any = data
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, str) else ""
