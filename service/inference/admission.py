"""Admission: what a bundle must show before it is served.

Every hash and the manifest's schema are right; the policy reproduces the golden states on the
chosen backend, answers sanely all over the range of its states, and was evaluated as well as is
asked for; its states, its actions and its step are those of the bundle that it is to replace; and
it is signed, where a key is set. Starting, reloading and the shadow pass the same admission.
"""

from itertools import product
from pathlib import Path

import numpy as np

from models import bundle
from models.bundle import Bundle, BundleError
from models.manifest import FLOAT32_MAX, Manifest
from service.inference import signature
from service.inference.backends import BackendName, Float32Array
from service.inference.errors import NotAdmittedError, PolicyError, QValuesNotFiniteError
from service.inference.loading import load
from service.inference.policy import Policy
from service.settings import Settings

PROBE_STATES = 256  # random states of each range that a policy must answer, beside its corners
# What admission raises, each with one line that names the bundle and the reason.
REFUSALS = (BundleError, PolicyError)


def admit(
    folder: Path,
    backend: BackendName,
    min_score: float,
    like: Manifest | None = None,
    verify_key: Path | None = None,
) -> Policy:
    """Read and examine a bundle that is to be served in place of the one whose manifest is `like`.

    With `verify_key` it must be signed by this key. Raises one of `REFUSALS`.
    """
    candidate = bundle.read(folder)
    signature.check(candidate, verify_key)
    return examine(candidate, backend, min_score, like)


def at_start(settings: Settings, folder: Path | None = None) -> tuple[Policy, Policy | None]:
    """Return the policy to serve and its shadow, if there is to be one.

    The bundle is read from the settings' folder, or from `folder`, where the service itself has put
    a bundle that it had verified. Raises one of `REFUSALS`.
    """
    backend, min_score, key = settings.backend, settings.min_score, settings.verify_key
    if folder is None:
        policy = admit(settings.bundle, backend, min_score, verify_key=key)
    else:
        policy = admit(folder, backend, min_score)
    if settings.shadow is None:
        return policy, None
    return policy, admit(settings.shadow, backend, min_score, policy.bundle.manifest, key)


def examine(
    candidate: Bundle, backend: BackendName, min_score: float, like: Manifest | None = None
) -> Policy:
    """Examine a bundle that was read, and return its policy. Raises one of `REFUSALS`."""
    manifest = candidate.manifest
    if like is not None:
        _check_words(
            candidate.folder,
            "state",
            [value.name for value in manifest.state],
            [value.name for value in like.state],
        )
        _check_words(candidate.folder, "actions", manifest.actions, like.actions)
        _check_step(candidate.folder, manifest, like)
    if manifest.evaluation.mean < min_score:
        raise NotAdmittedError(
            f"{candidate.folder}: the mean score in its evaluation is"
            f" {manifest.evaluation.mean:g} steps,"
            f" --min-score asks for {min_score:g}"
        )
    policy = load(candidate, backend)
    _check_sanity(policy)
    return policy


def _check_words(
    folder: Path,
    what: str,
    found: list[str] | tuple[str, ...],
    expected: list[str] | tuple[str, ...],
) -> None:
    if tuple(found) != tuple(expected):
        raise NotAdmittedError(
            f"{folder}: its {what}: {', '.join(found)}; those of the bundle served:"
            f" {', '.join(expected)}; others need a new start"
        )


def _check_step(folder: Path, manifest: Manifest, like: Manifest) -> None:
    """Refuse another step: the control loops that ask keep the one that they were written for."""
    step, expected = manifest.environment.step_seconds, like.environment.step_seconds
    if step != expected:
        raise NotAdmittedError(
            f"{folder}: is for steps of {step:g} s, and the bundle served for steps of"
            f" {expected:g} s; another needs a new start"
        )


def _check_sanity(policy: Policy) -> None:
    """Ask for finite answers wherever a state may lie, and for more than one action."""
    values = policy.bundle.manifest.state
    seen = [(value.training_min, value.training_max) for value in values]
    bounds = [
        (
            low if value.low is None else max(min(low, value.low), -FLOAT32_MAX),
            high if value.high is None else min(max(high, value.high), FLOAT32_MAX),
        )
        for value, (low, high) in zip(values, seen, strict=True)
    ]
    states = np.concatenate([_probes(seen), _probes(bounds)])
    try:
        actions = policy.decide(states).actions
    except QValuesNotFiniteError as error:
        raise NotAdmittedError(
            f"{policy.bundle.folder}: has no finite Q-values"
            f" for the state {states[error.row].tolist()}"
        ) from error
    if len(set(actions)) == 1:
        name = policy.bundle.manifest.actions[actions[0]]
        raise NotAdmittedError(
            f"{policy.bundle.folder}: chooses {name!r} for each of {len(actions)} states,"
            " whatever the state"
        )


def _probes(ranges: list[tuple[float, float]]) -> Float32Array:
    """Return the corners of the ranges and random states inside, (n, 4), the same each time."""
    low, high = np.array(ranges, np.float64).T
    inside = np.random.default_rng(0).uniform(low, high, (PROBE_STATES, len(ranges)))
    return np.concatenate([np.array(list(product(*ranges))), inside]).astype(np.float32)
