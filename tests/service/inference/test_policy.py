from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import bundle
from models.bundle import Bundle
from service.inference.backends import BackendName, Float32Array
from service.inference.errors import BackendUnavailableError, QValuesNotFiniteError, SelfTestError
from service.inference.loading import load
from service.inference.policy import Policy
from tests.support.backends import FixedBackend
from tests.support.project import COMMITTED

COMMITTED_BUNDLE = bundle.read(COMMITTED)
ONNX, TORCHSCRIPT = load(COMMITTED_BUNDLE, "onnx"), load(COMMITTED_BUNDLE, "torchscript")

plausible = st.tuples(*[st.floats(-bound, bound, width=32) for bound in (4.5, 10.0, 0.5, 10.0)])


@settings(max_examples=300, deadline=None)
@given(state=plausible)
def test_both_backends_give_the_same_q_values_and_the_same_action(state: tuple[float, ...]) -> None:
    states = np.array([state], np.float32)
    one, other = ONNX.decide(states), TORCHSCRIPT.decide(states)
    tolerance = 1e-5 + 1e-5 * np.abs(one.q_values[0]).max()
    assert (np.abs(np.subtract(one.q_values[0], other.q_values[0])) <= tolerance).all()
    if abs(one.q_values[0][0] - one.q_values[0][1]) > 2 * tolerance:
        assert list(one.actions) == list(other.actions)


@settings(max_examples=100, deadline=None)
@given(states=st.lists(plausible, min_size=1, max_size=40))
def test_each_row_of_a_batch_is_the_single_answer_to_the_bit(
    states: list[tuple[float, ...]],
) -> None:
    together = np.array(states, np.float32)
    for policy in (ONNX, TORCHSCRIPT):
        batch = policy.decide(together)
        for row in range(len(states)):
            single = policy.decide(together[row : row + 1])
            assert (batch.actions[row], batch.q_values[row], batch.out_of_range[row]) == (
                single.actions[0],
                single.q_values[0],
                single.out_of_range[0],
            )


@settings(max_examples=200, deadline=None)
@given(state=st.tuples(*[st.floats(-bound, bound) for bound in (4.5, 10.0, 0.5, 10.0)]))
def test_one_state_is_decided_as_a_row_of_a_batch_is(
    state: tuple[float, float, float, float],
) -> None:
    for policy in (ONNX, TORCHSCRIPT):
        one, row = policy.decide_one(state), policy.decide(np.array([state], np.float32))
        assert one == (row.actions[0], row.q_values[0], row.out_of_range[0])


@settings(max_examples=100, deadline=None)
@given(state=plausible)
def test_action_is_the_first_highest_q_value(state: tuple[float, ...]) -> None:
    decided = ONNX.decide(np.array([state], np.float32))
    assert decided.actions[0] == decided.q_values[0].index(max(decided.q_values[0]))


@pytest.mark.parametrize("count", [63, 64, 255, 256, 257, 768, 769, 1_000, 1_100])
def test_many_states_are_answered_to_the_bit_as_each_by_itself(
    backend: BackendName, count: int
) -> None:
    policy = ONNX if backend == "onnx" else TORCHSCRIPT
    states = np.random.default_rng(count).normal(0, 2, (count, 4)).astype(np.float32)
    together = policy.decide(states)
    for state, action, q_values, names in zip(
        states.tolist(), together.actions, together.q_values, together.out_of_range, strict=True
    ):
        assert policy.decide_one(tuple(state)) == (action, q_values, names)


class RoundsByRows:
    """A backend whose answers depend on the number of rows, as a runtime's may."""

    def __init__(self, *, depends: bool) -> None:
        self._depends = depends
        self.sizes: set[int] = set()

    def q_values(self, states: Float32Array) -> Float32Array:
        self.sizes.add(len(states))
        q_values = states[:, :2] * np.float32(3)
        return q_values * np.float32(1 + 1e-6) if self._depends and len(states) > 16 else q_values


@pytest.mark.parametrize("depends", [False, True])
def test_large_blocks_are_used_only_where_they_round_as_small_ones(
    committed: Bundle, depends: bool
) -> None:
    backend = RoundsByRows(depends=depends)
    policy = Policy(committed, backend, "onnx")
    backend.sizes.clear()
    for rows, sizes in {
        20: {16},
        256: {256},
        300: {256, 16},
        1_000: {1_024},
        1_100: {1_024, 256},
        2_060: {1_024, 16},
    }.items():
        backend.sizes.clear()
        policy.decide(np.ones((rows, 4), np.float32))
        assert backend.sizes == ({16} if depends else sizes)


def test_a_tie_is_the_first_action(committed: Bundle) -> None:
    decisions = Policy(committed, FixedBackend(2, 2), "onnx").decide(np.zeros((1, 4), np.float32))
    assert list(decisions.actions) == [0]


@pytest.mark.parametrize("q_values", [(np.nan, 1), (1, np.nan), (np.inf, 1), (1, -np.inf)])
def test_a_q_value_that_is_not_finite_never_becomes_an_action(
    committed: Bundle, q_values: tuple[float, float]
) -> None:
    with pytest.raises(QValuesNotFiniteError):
        Policy(committed, FixedBackend(*q_values), "onnx").decide(np.zeros((1, 4), np.float32))


def test_values_outside_what_training_saw_are_named(committed: Bundle) -> None:
    values = committed.manifest.state
    at_the_edge = np.array(
        [[value.training_max for value in values], [value.training_min for value in values]],
        np.float32,
    )
    assert list(ONNX.decide(at_the_edge).out_of_range) == [[], []]
    for index, value in enumerate(values):
        beyond = at_the_edge.copy()
        beyond[:, index] *= np.float32(1.001)
        assert ONNX.decide(beyond).out_of_range == [[value.name], [value.name]]


def test_the_names_of_states_that_all_are_in_range_are_a_sequence_as_any_other() -> None:
    names = ONNX.decide(np.zeros((3, 4), np.float32)).out_of_range
    assert (len(names), names[2], names[-3], list(names[1:])) == (3, [], [], [[], []])
    with pytest.raises(IndexError):
        names[3]


def test_golden_states_that_the_artifact_does_not_reproduce_are_refused(
    committed: Bundle, backend: BackendName
) -> None:
    golden = committed.manifest.golden_states[3]
    wrong = golden.model_copy(update={"q_values": (golden.q_values[0], golden.q_values[1] + 0.01)})
    states = (*committed.manifest.golden_states[:3], wrong)
    other = Bundle(
        committed.folder,
        "",
        committed.manifest.model_copy(update={"golden_states": states}),
        committed.artifacts,
    )
    with pytest.raises(SelfTestError, match="golden state 3"):
        load(other, backend)


@pytest.mark.parametrize("content", [b"", b"no model", b"PK\x03\x04"])
def test_an_artifact_that_is_no_model_is_refused_by_name(
    committed: Bundle, backend: BackendName, content: bytes
) -> None:
    other = Bundle(
        committed.folder, "", committed.manifest, {"onnx": content, "torchscript": content}
    )
    with pytest.raises(SelfTestError, match=r"policy\.(onnx|pt).*cannot load"):
        load(other, backend)


def test_a_bundle_without_the_backends_artifact_is_refused(committed: Bundle) -> None:
    manifest = committed.manifest.model_copy(
        update={"artifacts": {"onnx": committed.manifest.artifacts["onnx"]}}
    )
    with pytest.raises(BackendUnavailableError, match="torchscript"):
        load(Bundle(Path("b"), "", manifest, committed.artifacts), "torchscript")
