import numpy as np
import pytest

from training.dqn.replay_buffer import ReplayBuffer


def filled(capacity: int, count: int) -> ReplayBuffer:
    """Transition i has i in all its parts."""
    buffer = ReplayBuffer(capacity)
    for i in range(count):
        buffer.add(
            np.full(4, i, np.float32),
            i % 2,
            float(i),
            np.full(4, i + 0.5, np.float32),
            terminal=i % 3 == 0,
        )
    return buffer


def test_buffer_keeps_the_last_transitions_and_forgets_the_oldest() -> None:
    buffer = filled(10, 25)
    assert len(buffer) == 10
    rewards = buffer.sample(np.random.default_rng(0), 10).rewards
    assert sorted(rewards.tolist()) == list(range(15, 25))


def test_the_parts_of_a_transition_stay_together() -> None:
    batch = filled(100, 60).sample(np.random.default_rng(1), 30)
    for state, action, reward, next_state, terminal in zip(
        batch.states, batch.actions, batch.rewards, batch.next_states, batch.terminal, strict=True
    ):
        assert (state == reward).all()
        assert (next_state == reward + 0.5).all()
        assert action == reward % 2
        assert terminal == (reward % 3 == 0)


def test_no_transition_is_twice_in_a_minibatch() -> None:
    rewards = filled(100, 100).sample(np.random.default_rng(2), 100).rewards
    assert len(set(rewards.tolist())) == 100


def test_each_transition_is_drawn_equally_often() -> None:
    buffer, rng = filled(20, 20), np.random.default_rng(3)
    counts = np.zeros(20)
    for _ in range(4_000):
        counts[buffer.sample(rng, 5).rewards.astype(int)] += 1
    # 4,000 × 5 / 20 = 1,000 expected, with a standard deviation of 27
    assert abs(counts - 1_000).max() < 140


def test_a_minibatch_larger_than_what_is_stored_is_refused() -> None:
    with pytest.raises(ValueError, match=r"64.*60"):
        filled(100, 60).sample(np.random.default_rng(0), 64)
