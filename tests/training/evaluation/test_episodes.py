import gymnasium as gym
import numpy as np
import pytest
from numpy.typing import NDArray

from training.evaluation.episodes import SEED, run_episodes, summarize
from training.seeding import TRAINING_SEEDS, VALIDATION_SEEDS


def toward_the_fall(states: NDArray[np.float32]) -> NDArray[np.float32]:
    """A simple controller: push to the side that the pole falls to."""
    lean = states[:, 2] + 0.3 * states[:, 3] + 0.02 * states[:, 1]
    return np.stack([-lean, lean], axis=1)


def always_left(states: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.tile(np.array([[1, 0]], np.float32), (len(states), 1))


@pytest.mark.parametrize("policy", [toward_the_fall, always_left])
def test_scores_are_those_of_the_ordinary_environment_from_the_same_starts(policy: object) -> None:
    assert callable(policy)
    results = run_episodes(policy, episodes=12)
    starts = gym.make_vec(
        "CartPole-v1", num_envs=12, vectorization_mode="vector_entry_point"
    ).reset(seed=SEED)[0]
    environment = gym.make("CartPole-v1")
    for start, expected in zip(starts, results.steps, strict=True):
        state, _ = environment.reset()
        environment.unwrapped.state = state = start  # type: ignore[attr-defined] # CartPole's own attribute
        steps, ended = 0, False
        while not ended:
            state, _, terminated, truncated, _ = environment.step(
                int(policy(np.asarray(state, np.float32)[None])[0].argmax())
            )
            steps, ended = steps + 1, terminated or truncated
        assert (
            abs(steps - expected) <= 1
        )  # the one environment reckons in 64 bits, the other stores 32
    assert len(results.states) == results.steps.sum()


def test_summary_counts_mean_worst_and_success_rate() -> None:
    good, bad = (
        summarize(run_episodes(toward_the_fall, episodes=50)),
        summarize(run_episodes(always_left, episodes=50)),
    )
    assert (good.episodes, good.success_rate, good.minimum, good.mean) == (50, 1.0, 500, 500.0)
    assert bad.success_rate == 0
    assert bad.minimum <= bad.mean < 15


@pytest.mark.parametrize("seed", [0, TRAINING_SEEDS[-1], VALIDATION_SEEDS[0], VALIDATION_SEEDS[-1]])
def test_seeds_that_training_may_use_or_select_by_are_refused(seed: int) -> None:
    with pytest.raises(ValueError, match=f"{seed}.*evaluating"):
        run_episodes(always_left, episodes=1, seed=seed)
