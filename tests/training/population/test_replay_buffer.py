"""The buffer gives back what was added, and cuts a return only where an episode terminated."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.population.replay_buffer import Minibatch, ReplayBuffer

GAMMA = 0.9


def fill(buffer: ReplayBuffer, ends: list[str], num_envs: int = 1) -> None:
    """Add steps: state t is (t, t, t, t), reward t + 1, and ends[t] says how step t ended."""
    for t, end in enumerate(ends):
        row = np.full((num_envs, 4), t, np.float32)
        flags = [np.full(num_envs, end == name) for name in ("terminated", "truncated")]
        buffer.add(
            row,
            np.full(num_envs, t % 2),
            np.full(num_envs, t + 1, np.float32),
            row + 1,
            flags[0],
            flags[1],
        )


def stored(buffer: ReplayBuffer, row: int) -> tuple[float, float, int, float, float]:
    state, next_state = buffer.states[0, row, :, 0].tolist()
    return (
        state,
        next_state,
        int(buffer.actions[0, row]),
        float(buffer.rewards[0, row]),
        float(buffer.discounts[0, row]),
    )


def test_truncated_transition_still_bootstraps() -> None:
    buffer = ReplayBuffer(1, 10, 1, n_step=1, gamma=GAMMA)
    fill(buffer, ["", "truncated"])
    assert stored(buffer, 1) == pytest.approx((1.0, 2.0, 1, 2.0, GAMMA))


def test_terminated_transition_does_not_bootstrap() -> None:
    buffer = ReplayBuffer(1, 10, 1, n_step=1, gamma=GAMMA)
    fill(buffer, ["", "terminated"])
    assert stored(buffer, 1)[4] == 0


def test_step_that_both_terminated_and_truncated_does_not_bootstrap() -> None:
    buffer = ReplayBuffer(1, 10, 1, n_step=1, gamma=GAMMA)
    state = np.zeros((1, 4), np.float32)
    yes = np.ones(1, np.bool_)
    buffer.add(state, np.zeros(1, np.int64), np.ones(1, np.float32), state, yes, yes)
    assert stored(buffer, 0)[4] == 0


@settings(max_examples=50, deadline=None)
@given(
    st.integers(1, 4),
    st.lists(st.sampled_from(["", "", "", "terminated", "truncated"]), min_size=4, max_size=20),
)
def test_every_n_step_return_equals_the_one_summed_by_hand(n_step: int, ends: list[str]) -> None:
    with torch.no_grad():
        buffer = ReplayBuffer(1, 50, 1, n_step=n_step, gamma=GAMMA)
        fill(buffer, ends)
    assert buffer.size == len(ends) - n_step + 1
    for t in range(buffer.size):
        total, steps = 0.0, 0
        for steps in range(1, n_step + 1):
            total += GAMMA ** (steps - 1) * (t + steps)
            if ends[t + steps - 1]:
                break
        discount = 0.0 if ends[t + steps - 1] == "terminated" else GAMMA**steps
        np.testing.assert_allclose(
            stored(buffer, t), (t, t + steps, t % 2, total, discount), rtol=1e-5
        )


def test_each_agent_samples_only_its_own_transitions() -> None:
    buffer = ReplayBuffer(3, 30, 2, n_step=1, gamma=GAMMA)
    agent = np.repeat(np.arange(3), 2)
    for _ in range(20):
        states = np.repeat(agent[:, None], 4, axis=1).astype(np.float32)
        no = np.zeros(6, np.bool_)
        buffer.add(states, agent % 2, agent.astype(np.float32), states, no, no)
    assert buffer.size == 30
    minibatch = Minibatch.empty(3, 16)
    buffer.sample(np.random.default_rng(0), minibatch)
    for k in range(3):
        assert (minibatch.states[k] == k).all()
        assert (minibatch.rewards[k] == k).all()
        assert (minibatch.actions[k] == k % 2).all()


def test_mirror_reflects_half_of_the_minibatch() -> None:
    buffer = ReplayBuffer(1, 10, 1, n_step=1, gamma=GAMMA)
    fill(buffer, ["", "", ""])
    plain, mirrored = Minibatch.empty(1, 8), Minibatch.empty(1, 8)
    buffer.sample(np.random.default_rng(0), plain)
    buffer.sample(np.random.default_rng(0), mirrored, mirror=True)
    assert torch.equal(mirrored.states[:, :4], -plain.states[:, :4])
    assert torch.equal(mirrored.states[:, 4:], plain.states[:, 4:])
    assert torch.equal(mirrored.actions[:, :4], 1 - plain.actions[:, :4])
    assert torch.equal(mirrored.rewards, plain.rewards)
