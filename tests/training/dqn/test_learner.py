import numpy as np
import pytest
import torch

from training.dqn.learner import Learner, epsilon_greedy
from training.dqn.replay_buffer import Minibatch
from training.network import DQNetwork, NumpyPolicy


def output_bias(network: DQNetwork) -> torch.Tensor:
    layer = network.layers[-1]
    assert isinstance(layer, torch.nn.Linear)
    return layer.bias


def minibatch(
    rng: np.random.Generator, *, terminal: float, action: int | None = None, size: int = 64
) -> Minibatch:
    actions = rng.integers(2, size=size) if action is None else np.full(size, action)
    states = rng.normal(size=(2, size, 4)).astype(np.float32)
    return Minibatch(
        states[0],
        actions,
        rng.normal(size=size).astype(np.float32),
        states[1],
        np.full(size, terminal, np.float32),
    )


@pytest.mark.parametrize("terminal", [0.0, 1.0])
def test_one_update_moves_q_towards_the_target_by_the_gradient_of_the_squared_error(
    terminal: float,
) -> None:
    """The gradient is worked out by hand for the output layer's bias.

    There Adam's first step is ± its learning rate.
    """
    torch.manual_seed(0)
    network = DQNetwork()
    batch = minibatch(np.random.default_rng(0), terminal=terminal)
    q_next = NumpyPolicy(network).q_values(batch.next_states).max(axis=1)
    target = batch.rewards + 0.9 * q_next * (1 - terminal)
    q_taken = NumpyPolicy(network).q_values(batch.states)[np.arange(64), batch.actions]
    gradient = [2 * np.where(batch.actions == a, q_taken - target, 0).mean() for a in (0, 1)]
    before = output_bias(network).detach().clone()
    Learner(network, learning_rate=1e-3, gamma=0.9).update(batch)
    moved = (output_bias(network).detach() - before).numpy()
    np.testing.assert_allclose(moved, -1e-3 * np.sign(gradient), rtol=1e-3)


def test_the_action_not_taken_is_left_alone() -> None:
    network = DQNetwork()
    Learner(network, learning_rate=1e-2, gamma=0.99).update(
        minibatch(np.random.default_rng(0), terminal=0, action=1)
    )
    gradient = output_bias(network).grad
    assert gradient is not None
    assert gradient[0] == 0
    assert gradient[1] != 0


def test_repeated_updates_on_terminal_transitions_learn_their_rewards() -> None:
    torch.manual_seed(1)
    network = DQNetwork()
    learner = Learner(network, learning_rate=2.5e-3, gamma=0.99)
    batch = minibatch(np.random.default_rng(1), terminal=1, size=16)
    for _ in range(1_500):
        learner.update(batch)
    q_taken = NumpyPolicy(network).q_values(batch.states)[np.arange(16), batch.actions]
    np.testing.assert_allclose(q_taken, batch.rewards, atol=0.05)


def test_epsilon_is_the_share_of_random_actions() -> None:
    rng = np.random.default_rng(0)
    q_values = np.array([0, 1], np.float32)
    assert all(epsilon_greedy(q_values, 0, rng) == 1 for _ in range(100))
    # half of the 40 % random actions are 0: 2,000 of 10,000, with a standard deviation of 40
    assert abs(sum(epsilon_greedy(q_values, 0.4, rng) == 0 for _ in range(10_000)) - 2_000) < 200


def test_a_tie_is_the_first_action() -> None:
    assert epsilon_greedy(np.array([3, 3], np.float32), 0, np.random.default_rng(0)) == 0


def test_numpy_policy_gives_the_networks_q_values_before_and_after_an_update() -> None:
    network = DQNetwork()
    policy = NumpyPolicy(network)
    states = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    for _ in range(2):
        np.testing.assert_allclose(
            policy.q_values(states),
            network(torch.from_numpy(states)).detach().numpy(),
            rtol=1e-5,
            atol=1e-6,
        )
        Learner(network, learning_rate=1e-2, gamma=0.99).update(
            minibatch(np.random.default_rng(0), terminal=0)
        )
        policy.refresh()
