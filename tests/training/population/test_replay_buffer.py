"""The memory gives back what happened, and cuts a return only where an episode terminated."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.population.q_networks import Minibatch
from training.population.replay_buffer import PopulationMemory

GAMMA = 0.9


def play(memory: PopulationMemory, ends: list[str], environments: int = 1) -> None:
    """One environment's steps: state t is (t, t, t, t), reward t + 1, and ends[t] says how step t ended."""
    for t, end in enumerate(ends):
        row = np.full((environments, 4), t, np.float32)
        flags = [np.full(environments, end == name) for name in ("terminated", "truncated")]
        memory.add(
            row,
            np.full(environments, t % 2),
            np.full(environments, t + 1, np.float32),
            row + 1,
            flags[0],
            flags[1],
        )


def stored(memory: PopulationMemory, row: int) -> tuple[float, float, int, float, float]:
    state, next_state = memory.states[0, row, :, 0].tolist()
    return (
        state,
        next_state,
        int(memory.actions[0, row]),
        float(memory.rewards[0, row]),
        float(memory.discounts[0, row]),
    )


def test_truncated_transition_still_bootstraps() -> None:
    memory = PopulationMemory(1, 10, 1, n_step=1, gamma=GAMMA)
    play(memory, ["", "truncated"])
    assert stored(memory, 1) == pytest.approx((1.0, 2.0, 1, 2.0, GAMMA))


def test_terminated_transition_does_not_bootstrap() -> None:
    memory = PopulationMemory(1, 10, 1, n_step=1, gamma=GAMMA)
    play(memory, ["", "terminated"])
    assert stored(memory, 1)[4] == 0


def test_step_that_both_terminated_and_truncated_does_not_bootstrap() -> None:
    memory = PopulationMemory(1, 10, 1, n_step=1, gamma=GAMMA)
    state = np.zeros((1, 4), np.float32)
    yes = np.ones(1, np.bool_)
    memory.add(state, np.zeros(1, np.int64), np.ones(1, np.float32), state, yes, yes)
    assert stored(memory, 0)[4] == 0


@settings(max_examples=50, deadline=None)
@given(
    st.integers(1, 4),
    st.lists(st.sampled_from(["", "", "", "terminated", "truncated"]), min_size=4, max_size=20),
)
def test_every_n_step_return_equals_the_one_summed_by_hand(n_step: int, ends: list[str]) -> None:
    with torch.no_grad():
        memory = PopulationMemory(1, 50, 1, n_step=n_step, gamma=GAMMA)
        play(memory, ends)
    assert memory.size == len(ends) - n_step + 1
    for t in range(memory.size):
        total, steps = 0.0, 0
        for steps in range(1, n_step + 1):
            total += GAMMA ** (steps - 1) * (t + steps)
            if ends[t + steps - 1]:
                break
        discount = 0.0 if ends[t + steps - 1] == "terminated" else GAMMA**steps
        np.testing.assert_allclose(
            stored(memory, t), (t, t + steps, t % 2, total, discount), rtol=1e-5
        )


def test_each_agent_samples_only_what_it_saw() -> None:
    memory = PopulationMemory(3, 30, 2, n_step=1, gamma=GAMMA)
    agent = np.repeat(np.arange(3), 2)
    for _ in range(20):
        states = np.repeat(agent[:, None], 4, axis=1).astype(np.float32)
        no = np.zeros(6, np.bool_)
        memory.add(states, agent % 2, agent.astype(np.float32), states, no, no)
    assert memory.size == 30
    minibatch = Minibatch.empty(3, 16)
    memory.sample(np.random.default_rng(0), minibatch)
    for k in range(3):
        assert (minibatch.states[k] == k).all()
        assert (minibatch.rewards[k] == k).all()
        assert (minibatch.actions[k] == k % 2).all()


def test_mirror_reflects_half_of_the_minibatch() -> None:
    memory = PopulationMemory(1, 10, 1, n_step=1, gamma=GAMMA)
    play(memory, ["", "", ""])
    plain, mirrored = Minibatch.empty(1, 8), Minibatch.empty(1, 8)
    memory.sample(np.random.default_rng(0), plain)
    memory.sample(np.random.default_rng(0), mirrored, mirror=True)
    assert torch.equal(mirrored.states[:, :4], -plain.states[:, :4])
    assert torch.equal(mirrored.states[:, 4:], plain.states[:, 4:])
    assert torch.equal(mirrored.actions[:, :4], 1 - plain.actions[:, :4])
    assert torch.equal(mirrored.rewards, plain.rewards)
