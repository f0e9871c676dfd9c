"""What a bundle must show before it answers anybody."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from benchmarks.operations import bundles
from benchmarks.operations.bundles import Fault
from models import bundle
from models.bundle import Bundle
from models.manifest import Plant
from service.inference import admission
from service.inference.backends import BackendName, Float32Array
from service.inference.errors import NotAdmittedError
from tests.support.project import COMMITTED
from tests.support.service import refused


def test_the_committed_bundle_is_admitted_on_both_backends_at_its_own_score(
    committed: Bundle, backend: BackendName
) -> None:
    score = committed.manifest.evaluation.mean
    policy = admission.admit(COMMITTED, backend, score, committed.manifest)
    assert (policy.bundle.digest, policy.backend_name) == (committed.digest, backend)


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        ("torn", "size differs"),
        ("byte", "SHA-256 differs"),
        ("schema", "cart_place"),
        ("golden", "golden state 15"),
    ],
)
def test_a_spoiled_bundle_is_refused_in_one_line_that_names_it(
    tmp_path: Path, committed: Bundle, fault: Fault, named: str
) -> None:
    folder = tmp_path / "spoiled"
    bundles.spoiled(COMMITTED, folder, fault)
    with pytest.raises(admission.REFUSALS) as caught:
        admission.admit(folder, "onnx", 0, committed.manifest)
    assert str(folder) in str(caught.value)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def nothing(weights: Float32Array) -> Float32Array:
    return np.zeros_like(weights)


def enormous(weights: Float32Array) -> Float32Array:
    return weights * np.float32(1e38)


def test_a_bundle_that_always_chooses_the_same_action_is_refused(
    tmp_path: Path, committed: Bundle
) -> None:
    bundles.relative(
        committed, tmp_path / "stubborn", nothing
    )  # reads back, and does as its manifest says
    with pytest.raises(NotAdmittedError, match="stubborn: chooses 'left' for each of 544 states"):
        admission.admit(tmp_path / "stubborn", "onnx", 0)


def test_a_bundle_without_finite_answers_beside_its_golden_states_is_refused(
    tmp_path: Path, committed: Bundle
) -> None:
    mild = min(committed.manifest.golden_states, key=lambda golden: max(map(abs, golden.q_values)))
    one = dataclasses.replace(
        committed, manifest=committed.manifest.model_copy(update={"golden_states": (mild,)})
    )
    bundles.relative(one, tmp_path / "enormous", enormous)
    with pytest.raises(
        NotAdmittedError, match=r"enormous: has no finite Q-values for the state \["
    ):
        admission.admit(tmp_path / "enormous", "onnx", 0)


def test_a_bundle_below_the_score_that_is_asked_for_is_refused_and_at_it_admitted(
    tmp_path: Path, committed: Bundle
) -> None:
    evaluation = committed.manifest.evaluation.model_copy(update={"mean": 474.5})
    poor = bundles.relative(committed, tmp_path / "poor", bundles.halved, evaluation=evaluation)
    assert admission.admit(poor.folder, "onnx", 474.5).bundle.digest == poor.digest
    with pytest.raises(NotAdmittedError, match=r"474\.5 steps, --min-score asks for 475"):
        admission.admit(poor.folder, "onnx", 475)


def test_other_actions_are_admitted_at_the_start_only(tmp_path: Path, committed: Bundle) -> None:
    other = bundles.relative(
        committed, tmp_path / "other", bundles.halved, actions=("right", "left")
    )
    assert admission.admit(other.folder, "onnx", 0).bundle.manifest.actions == ("right", "left")
    with pytest.raises(NotAdmittedError, match="actions"):
        admission.admit(other.folder, "onnx", 0, committed.manifest)


def test_bounds_as_wide_as_numbers_go_are_probed_as_far_as_32_bits_reach(
    tmp_path: Path, committed: Bundle
) -> None:
    wide = tuple(
        value.model_copy(update={"low": -1e300, "high": 1e300})
        for value in committed.manifest.state
    )
    bundles.relative(committed, tmp_path / "wide", bundles.halved, state=wide)
    with pytest.raises(NotAdmittedError, match=r"no finite Q-values for the state \[-3\.4028"):
        admission.admit(tmp_path / "wide", "onnx", 0)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_service_starts_with_no_bundle_and_no_shadow_that_is_not_admitted(
    tmp_path: Path, committed: Bundle, workers: str
) -> None:
    bundles.relative(committed, tmp_path / "odd", nothing)
    bundles.spoiled(COMMITTED, tmp_path / "renamed", "schema")
    for arguments, named in (
        (["--bundle", str(tmp_path / "odd")], "chooses 'left'"),
        (["--min-score", "501"], "--min-score asks for 501"),
        (["--shadow", str(tmp_path / "odd")], "odd: chooses 'left'"),
        (["--shadow", str(tmp_path / "renamed")], "cart_place"),
        (["--shadow", str(tmp_path / "nowhere")], "nowhere"),
    ):
        code, complaint = refused("--workers", workers, *arguments)
        assert code == 1
        assert complaint.count("\n") == 1
        assert named in complaint


def test_what_was_admitted_answers_as_the_file_that_was_read_whatever_happens_to_it_later(
    tmp_path: Path, committed: Bundle
) -> None:
    half = bundles.relative(committed, tmp_path / "half", bundles.halved)
    policy = admission.admit(half.folder, "onnx", 0)
    (half.folder / "policy.onnx").unlink()
    state = committed.manifest.golden_states[0]
    q_values = policy.decide(np.array([state.state], np.float32)).q_values[0]
    assert q_values == pytest.approx([value / 2 for value in state.q_values], abs=1e-6)
    with pytest.raises(admission.REFUSALS):
        bundle.read(half.folder)


def test_another_step_is_admitted_at_the_start_only(tmp_path: Path, committed: Bundle) -> None:
    environment = committed.manifest.environment
    fast = environment.model_copy(
        update={"step_seconds": 0.01, "plant": Plant(pole_mass=0.3, step_seconds=0.01)}
    )
    other = bundles.relative(committed, tmp_path / "other", bundles.halved, environment=fast)
    assert admission.admit(other.folder, "onnx", 0).bundle.manifest.environment == fast
    with pytest.raises(NotAdmittedError, match=r"is for steps of 0\.01 s, and the bundle served"):
        admission.admit(other.folder, "onnx", 0, committed.manifest)
