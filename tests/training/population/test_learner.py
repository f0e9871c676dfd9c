"""The population learns what each of its agents would learn alone."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch

from service.inference.torchscript_code import checked_archive
from training.evaluation.runtimes import from_onnx, from_torchscript
from training.export.formats import to_onnx, to_torchscript
from training.network import DQNetwork
from training.population.learner import PopulationLearner, UpdateSettings
from training.population.q_networks import StackedQNetworks
from training.population.replay_buffer import Minibatch


@pytest.fixture(autouse=True)
def _as_in_training() -> Iterator[None]:
    torch.set_num_threads(1)
    with torch.no_grad():
        yield


def learner(
    agents: int,
    seed: int = 0,
    batch_size: int = 8,
    *,
    advantage: float = 0.0,
    huber_delta: float = 1.0,
    ensemble: bool = False,
    scale: tuple[float, ...] = (1, 1, 1, 1),
    limits: tuple[float, ...] | None = None,
) -> PopulationLearner:
    networks = StackedQNetworks(
        agents, (24, 24), np.random.default_rng(seed), scale=scale, limits=limits
    )
    settings = UpdateSettings(
        batch_size=batch_size,
        learning_rate=1e-2,
        tau=0.1,
        advantage=advantage,
        huber_delta=huber_delta,
        ensemble=ensemble,
    )
    return PopulationLearner(networks, settings)


def networks(agents: int, scale: tuple[float, ...] = (1, 1, 1, 1)) -> StackedQNetworks:
    return StackedQNetworks(agents, (24, 24), np.random.default_rng(0), scale=scale)


def fill(minibatch: Minibatch, rng: np.random.Generator) -> None:
    shape = tuple(minibatch.actions.shape)
    minibatch.states.copy_(
        torch.from_numpy(rng.standard_normal(tuple(minibatch.states.shape)).astype(np.float32))
    )
    minibatch.actions.copy_(torch.from_numpy(rng.integers(0, 2, shape)))
    minibatch.rewards.copy_(torch.from_numpy(rng.random(shape, np.float32)))
    minibatch.discounts.copy_(
        torch.from_numpy((0.99 * (rng.random(shape) < 0.9)).astype(np.float32))
    )


def test_one_agent_of_the_population_equals_its_own_network() -> None:
    four = networks(4)
    states = np.random.default_rng(1).standard_normal((4, 50, 4)).astype(np.float32)
    together = four.q_values(states)
    for k in range(4):
        alone = four.agent(k)(torch.from_numpy(states[k])).numpy()
        np.testing.assert_allclose(together[k], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("agents", [1, 4])
@pytest.mark.parametrize("advantage", [0.0, 0.7])
@pytest.mark.parametrize("huber_delta", [0.1, 1000.0])
@pytest.mark.parametrize("ensemble", [False, True])
def test_gradient_by_hand_equals_autograds(
    agents: int, advantage: float, huber_delta: float, ensemble: bool
) -> None:
    ours = learner(agents, advantage=advantage, huber_delta=huber_delta, ensemble=ensemble)
    stacked = ours.networks
    stacked.target.flat.mul_(1.5)
    fill(ours.minibatch, np.random.default_rng(1))
    agents_alone = [stacked.agent(k) for k in range(agents)]
    targets = [stacked.agent(k, stacked.target) for k in range(agents)]
    ours.update()
    batch = ours.minibatch

    def mean(of: list[DQNetwork], k: int, states: torch.Tensor) -> torch.Tensor:
        """Return agent k's Q-values, or in an ensemble the mean of all agents'."""
        rows = torch.stack([network(states) for network in of]).detach()
        return rows.mean(0) if ensemble else rows[k]

    for k, network in enumerate(agents_alone):
        row = 0 if ensemble else k
        states, next_states = batch.states[row, :, 0], batch.states[row, :, 1]
        choosing = targets if ensemble else agents_alone
        best = mean(choosing, k, next_states).argmax(1, keepdim=True)
        goal = batch.rewards[row] + batch.discounts[row] * mean(targets, k, next_states).gather(
            1, best
        )
        here = mean(targets, k, states)
        goal -= advantage * (here.max(1, keepdim=True).values - here.gather(1, batch.actions[row]))
        with torch.enable_grad():
            torch.nn.functional.huber_loss(
                network(states).gather(1, batch.actions[row]), goal, delta=huber_delta
            ).backward()  # type: ignore[no-untyped-call]  # torch's own
        for layer, weights, biases in zip(
            network.linear_layers(), ours.gradient.weights, ours.gradient.biases, strict=True
        ):
            assert layer.weight.grad is not None
            assert layer.bias.grad is not None
            torch.testing.assert_close(weights[k].T, layer.weight.grad, rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(biases[k, 0], layer.bias.grad, rtol=1e-4, atol=1e-6)


def test_scale_of_the_states_is_folded_into_the_exported_network() -> None:
    scaled, other = learner(2, scale=(1, 1, 0.1, 2)), learner(2)
    states = np.random.default_rng(1).standard_normal((2, 50, 4)).astype(np.float32)
    expected = other.networks.q_values((states / np.array([1, 1, 0.1, 2])).astype(np.float32))
    np.testing.assert_allclose(scaled.networks.q_values(states), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        scaled.networks.agent(1)(torch.from_numpy(states[1])).numpy(),
        expected[1],
        rtol=1e-4,
        atol=1e-5,
    )
    fill(scaled.minibatch, np.random.default_rng(1))
    fill(other.minibatch, np.random.default_rng(1))
    other.minibatch.states.div_(torch.tensor([1, 1, 0.1, 2]))
    scaled.update()
    other.update()
    torch.testing.assert_close(scaled.networks.online.flat, other.networks.online.flat)


def test_a_state_beyond_the_limits_counts_as_the_limit_in_learning_and_in_every_file() -> None:
    limits = (2.4, 9.0, 0.2095, 9.0)
    limited = learner(2, scale=(1, 1, 0.1, 2), limits=limits)
    other = learner(2, scale=(1, 1, 0.1, 2))

    far = np.random.default_rng(1).uniform(-3, 3, (2, 500, 4)) * limits
    states = far.astype(np.float32)
    ends = np.array(limits, np.float32)
    expected = other.networks.q_values(np.clip(states, -ends, ends))
    np.testing.assert_allclose(limited.networks.q_values(states), expected, rtol=1e-4, atol=1e-5)

    network = limited.networks.agent(1)
    assert network.hidden == limited.networks.exported_hidden == (8, 24, 24)
    archive = checked_archive(to_torchscript(network))
    for q_values in (from_onnx(to_onnx(network)), from_torchscript(archive)):
        np.testing.assert_allclose(q_values(states[1]), expected[1], rtol=1e-4, atol=1e-5)

    fill(limited.minibatch, np.random.default_rng(1))
    limited.minibatch.states.mul_(torch.tensor(limits))
    fill(other.minibatch, np.random.default_rng(1))
    end = torch.tensor(limits)
    other.minibatch.states.mul_(end).clamp_(-end, end)
    limited.update()
    other.update()
    torch.testing.assert_close(limited.networks.online.flat, other.networks.online.flat)


def test_metrics_are_those_of_the_last_update() -> None:
    ours = learner(3)
    fill(ours.minibatch, np.random.default_rng(1))
    q_values = torch.stack(
        [ours.networks.agent(k)(ours.minibatch.states[k, :, 0]) for k in range(3)]
    )
    ours.update()
    found = ours.metrics()
    assert found["q_value"] == pytest.approx(q_values.mean().item(), abs=1e-5)
    assert found["action_gap"] == pytest.approx(
        (q_values[..., 0] - q_values[..., 1]).abs().mean().item(), abs=1e-5
    )
    assert found["loss"] > 0
    assert found["gradient_norm"] > 0


@pytest.mark.parametrize("huber_delta", [0.1, 1.0, 1000.0])
def test_the_loss_that_is_reported_is_the_one_that_is_minimised(huber_delta: float) -> None:
    ours = learner(1, huber_delta=huber_delta)
    batch = ours.minibatch
    fill(batch, np.random.default_rng(1))
    batch.discounts.zero_()  # the goals are the rewards
    q_values = ours.networks.agent(0)(batch.states[0, :, 0])
    ours.update()
    expected = torch.nn.functional.huber_loss(
        q_values.gather(1, batch.actions[0]), batch.rewards[0], delta=huber_delta
    )
    assert ours.metrics()["loss"] == pytest.approx(expected.item(), rel=1e-5)


def test_an_agent_whose_weights_are_lost_is_not_counted() -> None:
    ours = networks(3)
    assert ours.count_finite() == 3
    ours.online.weights[1][2, 0, 0] = torch.nan
    assert ours.count_finite() == 2


def test_agents_do_not_touch_each_other() -> None:
    two, alone = learner(2), learner(1)
    for ours, mine in zip(
        (*two.networks.online.weights, *two.networks.online.biases),
        (*alone.networks.online.weights, *alone.networks.online.biases),
        strict=True,
    ):
        mine[0].copy_(ours[1])
    for each in (alone.networks, two.networks):
        each.target.flat.copy_(each.online.flat)
    rng = np.random.default_rng(2)
    for _ in range(20):
        fill(two.minibatch, rng)
        for name in ("states", "actions", "rewards", "discounts"):
            getattr(alone.minibatch, name)[0].copy_(getattr(two.minibatch, name)[1])
        two.update()
        alone.update()
    for ours, mine in zip(two.networks.online.weights, alone.networks.online.weights, strict=True):
        torch.testing.assert_close(ours[1], mine[0], rtol=1e-3, atol=1e-5)


def test_adam_equals_pytorchs_own() -> None:
    ours = learner(1)
    parameter = torch.nn.Parameter(ours.networks.online.flat.clone())
    adam = torch.optim.Adam([parameter], lr=1e-2)
    rng = np.random.default_rng(3)
    for _ in range(5):
        fill(ours.minibatch, rng)
        ours.update()
        parameter.grad = ours.gradient.flat.clone()
        adam.step()
    torch.testing.assert_close(ours.networks.online.flat, parameter.data)


def test_target_follows_by_polyak_averaging() -> None:
    ours = learner(2)
    stacked = ours.networks
    before = stacked.target.flat.clone()
    fill(ours.minibatch, np.random.default_rng(1))
    ours.update()
    torch.testing.assert_close(stacked.target.flat, 0.9 * before + 0.1 * stacked.online.flat)


def test_weights_start_as_pytorchs_linear_layers_do() -> None:
    ours = networks(64)
    for weights, (inputs, _) in zip(ours.online.weights, pairwise(ours.widths), strict=True):
        assert weights.abs().max() <= inputs**-0.5
        assert weights.std().item() == pytest.approx(inputs**-0.5 / 3**0.5, rel=0.05)


def test_epsilon_one_is_a_fair_coin_and_zero_is_greedy() -> None:
    ours = networks(4)
    states = np.random.default_rng(1).standard_normal((4000, 4)).astype(np.float32)
    rng = np.random.default_rng(2)
    assert abs(ours.act(states, 1.0, rng).mean() - 0.5) < 0.05
    greedy = ours.q_values(states.reshape(4, -1, 4)).argmax(2).reshape(-1)
    np.testing.assert_array_equal(ours.act(states, 0.0, rng), greedy)
