import copy
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from training.evaluation.runtimes import (
    PolicyFileError,
    from_network,
    from_onnx,
    from_torchscript,
)
from training.export import parity
from training.export.formats import to_onnx, to_torchscript
from training.export.reference import layers_of
from training.network import DQNetwork
from training.types import QFunction

torch.manual_seed(0)  # else the order of the tests would choose the weights
NETWORK = DQNetwork()
LAYERS = layers_of(NETWORK)
STATES = np.random.default_rng(0).normal(size=(500, 4)).astype(np.float32)
LOW, HIGH = np.array([-4.8, -3, -0.4, -4], np.float32), np.array([4.8, 3, 0.4, 4], np.float32)


def wrong_in(change: Callable[[NDArray[np.float32]], None], size: int = len(STATES)) -> QFunction:
    """Return the network with its Q-values changed where it is given so many states."""

    def q_values(states: NDArray[np.float32]) -> NDArray[np.float32]:
        result = from_network(NETWORK)(states).copy()
        if len(states) == size:
            change(result)
        return result

    return q_values


def large_network(seed: int) -> DQNetwork:
    """Return a network whose Q-values are thousands that cancel to small ones, as a DQN's may."""
    torch.manual_seed(seed)
    network = DQNetwork((120, 84))
    with torch.no_grad():
        for layer in network.linear_layers():
            layer.weight *= 16
        last = network.linear_layers()[-1]
        last.weight[1] = last.weight[0] * (1 + 1e-4)
    return network


def test_runtimes_that_agree_pass_and_their_largest_error_is_told() -> None:
    result = parity.compare(LAYERS, {"torch": from_network(NETWORK)}, STATES)
    assert result.states == 500
    assert 0 < result.largest_error["torch"] <= result.largest_bound < 1e-5


@pytest.mark.parametrize("error", [1e-3, np.inf, np.nan])
def test_a_runtime_that_errs_in_one_state_is_refused(error: float) -> None:
    def change(q_values: NDArray[np.float32]) -> None:
        q_values[321, 1] += np.float32(error)

    with pytest.raises(PolicyFileError, match="b errs by"):
        parity.compare(LAYERS, {"a": from_network(NETWORK), "b": wrong_in(change)}, STATES)


def test_a_runtime_that_fails_one_batch_size_is_refused() -> None:
    def change(q_values: NDArray[np.float32]) -> None:
        q_values += 1

    with pytest.raises(PolicyFileError, match="batch of 7"):
        parity.compare(LAYERS, {"a": wrong_in(change, size=7)}, STATES)


def test_a_near_tie_may_be_decided_differently_and_is_counted() -> None:
    network = DQNetwork()
    with torch.no_grad():
        last = network.linear_layers()[-1]
        last.weight[1], last.bias[1] = last.weight[0], last.bias[0]

    def other(states: NDArray[np.float32]) -> NDArray[np.float32]:
        return from_network(network)(states) + np.array([0, 1e-9], np.float32)

    result = parity.compare(layers_of(network), {"a": other}, STATES)
    assert result.near_ties == 500


@pytest.mark.parametrize("seed", range(5))
def test_large_q_values_that_cancel_pass_in_every_format(seed: int) -> None:
    network = large_network(seed)
    runtimes = {
        "torch": from_network(network),
        "onnx": from_onnx(to_onnx(network)),
        "torchscript": from_torchscript(to_torchscript(network)),
    }
    states = np.random.default_rng(seed).uniform(LOW, HIGH, (10_000, 4)).astype(np.float32)
    result = parity.compare(layers_of(network), runtimes, states)
    assert max(result.largest_error.values()) > 1e-4  # more than a fixed tolerance would allow


def half_precision(network: DQNetwork) -> None:
    for parameter in network.parameters():
        parameter.copy_(parameter.half().float())


def a_wrong_weight(network: DQNetwork) -> None:
    weight = network.linear_layers()[1].weight
    weight.view(-1)[weight.abs().argmax()] *= 1.1


def swapped_rows(network: DQNetwork) -> None:
    layer = network.linear_layers()[0]
    layer.weight.copy_(layer.weight.flip(0))


def a_lost_bias(network: DQNetwork) -> None:
    network.linear_layers()[1].bias.zero_()


@pytest.mark.parametrize("damage", [half_precision, a_wrong_weight, swapped_rows, a_lost_bias])
@pytest.mark.parametrize("make", [DQNetwork, partial(large_network, 0)])
def test_a_file_of_another_network_is_refused(
    make: Callable[[], DQNetwork], damage: Callable[[DQNetwork], None]
) -> None:
    network = make()
    damaged = copy.deepcopy(network)
    with torch.no_grad():
        damage(damaged)
    states = np.random.default_rng(0).uniform(LOW, HIGH, (10_000, 4)).astype(np.float32)
    with pytest.raises(PolicyFileError, match="onnx errs by"):
        parity.compare(layers_of(network), {"onnx": from_onnx(to_onnx(damaged))}, states)


def test_states_to_compare_lie_inside_the_bounds_and_reach_each_of_them() -> None:
    on_policy = np.zeros((10, 4), np.float32)
    states = parity.states_to_compare(on_policy, LOW, HIGH, np.random.default_rng(0))
    assert states.shape == (10_000, 4)
    assert states.dtype == np.float32
    assert ((states >= LOW) & (states <= HIGH)).all()
    assert (states == LOW).any(axis=0).all()
    assert (states == HIGH).any(axis=0).all()
    assert (states == 0).all(axis=1).sum() == 4_000


def test_golden_states_hold_what_every_runtime_must_reproduce() -> None:
    golden = parity.golden_states(LAYERS, STATES)
    assert len(golden) == 16
    for state in golden:
        found = from_network(NETWORK)(np.array([state.state], np.float32))[0]
        assert (np.abs(found - np.array(state.q_values)) <= state.tolerance).all()
        assert state.tolerance < 1e-5
