import numpy as np
import pytest
from numpy.typing import NDArray

from training.evaluation.runtimes import PolicyFileError, from_network
from training.export import parity
from training.network import DQNetwork

NETWORK = DQNetwork()
STATES = np.random.default_rng(0).normal(size=(500, 4)).astype(np.float32)
LOW, HIGH = np.array([-4.8, -3, -0.4, -4], np.float32), np.array([4.8, 3, 0.4, 4], np.float32)


def test_runtimes_that_agree_pass_and_their_largest_difference_is_told() -> None:
    result = parity.compare(
        {
            "a": from_network(NETWORK),
            "b": lambda states: from_network(NETWORK)(states) + np.float32(2e-6),
        },
        STATES,
    )
    assert result.states == 500
    assert 0 < result.largest_difference["a - b"] < 1e-5


@pytest.mark.parametrize("error", [1e-3, np.inf, np.nan])
def test_a_runtime_that_differs_in_one_state_is_refused(error: float) -> None:
    def wrong(states: NDArray[np.float32]) -> NDArray[np.float32]:
        q_values = from_network(NETWORK)(states).copy()
        if len(states) == len(STATES):
            q_values[321, 1] += np.float32(error)
        return q_values

    with pytest.raises(PolicyFileError, match="a and b differ"):
        parity.compare({"a": from_network(NETWORK), "b": wrong}, STATES)


def test_a_runtime_that_fails_one_batch_size_is_refused() -> None:
    def wrong(states: NDArray[np.float32]) -> NDArray[np.float32]:
        return from_network(NETWORK)(states) + np.float32(1 if len(states) == 7 else 0)

    with pytest.raises(PolicyFileError, match="batch of 7"):
        parity.compare({"a": from_network(NETWORK), "b": wrong}, STATES)


def test_a_near_tie_may_be_decided_differently_and_is_counted() -> None:
    tie = np.full((len(STATES), 2), 100, np.float32)
    other = tie + np.array([0, 1e-5], np.float32)
    result = parity.compare({"a": lambda s: tie[: len(s)], "b": lambda s: other[: len(s)]}, STATES)
    assert result.near_ties == 500


def test_states_to_compare_lie_inside_the_bounds_and_reach_each_of_them() -> None:
    on_policy = np.zeros((10, 4), np.float32)
    states = parity.states_to_compare(on_policy, LOW, HIGH, np.random.default_rng(0))
    assert states.shape == (10_000, 4)
    assert states.dtype == np.float32
    assert ((states >= LOW) & (states <= HIGH)).all()
    assert (states == LOW).any(axis=0).all()
    assert (states == HIGH).any(axis=0).all()
    assert (states == 0).all(axis=1).sum() == 4_000


def test_golden_states_hold_their_own_q_values() -> None:
    golden = parity.golden_states(from_network(NETWORK), STATES)
    assert len(golden) == 16
    for state in golden:
        found = from_network(NETWORK)(np.array([state.state], np.float32))[0]
        np.testing.assert_allclose(found, state.q_values, rtol=1e-6, atol=1e-6)
