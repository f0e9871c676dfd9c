"""The vector environment is Gymnasium's plant under the plant parameters that were drawn."""

import numpy as np
import pytest
from gymnasium.envs.classic_control.cartpole import CartPoleEnv

from training.envs.cartpole import RandomizedCartPole, VectorCartPole
from training.envs.conditions import DomainRandomization, PlantParameters, Reward

WIDE = DomainRandomization(
    force=(2, 20),
    half_length=(0.05, 1),
    pole_mass=(0.01, 1),
    start=(0.2, 0.2, 0.2, 0.2),
    noise=0.1,
    delay=3,
    push=1,
    push_chance=0.1,
    nominal=0.25,
)


def test_nominal_cart_moves_as_gymnasiums_does() -> None:
    ours, theirs = VectorCartPole(1), CartPoleEnv()
    state, _ = theirs.reset(seed=3)
    ours.begin_episodes(np.arange(1), PlantParameters.nominal(1), np.random.default_rng(0))
    ours.state = np.asarray(theirs.state, np.float64)[:, None].copy()
    for action in np.random.default_rng(0).integers(0, 2, 30):
        state, _, terminated, _, _ = theirs.step(action)  # type: ignore[no-untyped-call]  # Gymnasium's own
        fell, _ = ours.advance(np.array([action]))
        np.testing.assert_allclose(ours.state[:, 0], state, rtol=1e-5)
        assert fell[0] == terminated
        if terminated:
            break


def test_randomized_mass_and_length_reach_the_derived_parameters() -> None:
    environment = RandomizedCartPole(50, WIDE, Reward())
    environment.reset(seed=0)
    for _ in range(100):
        environment.step(np.random.default_rng(0).integers(0, 2, 50))
        np.testing.assert_array_equal(
            environment.total_mass, environment.parameters.pole_mass + 1.0
        )
        np.testing.assert_array_equal(
            environment.polemass_length,
            environment.parameters.pole_mass * environment.parameters.half_length,
        )
    assert len(np.unique(environment.parameters.pole_mass)) > 20


def test_ended_episode_begins_anew_in_the_same_step_and_shows_its_last_state() -> None:
    environment = RandomizedCartPole(8, DomainRandomization(), Reward())
    environment.reset(seed=0)
    ended = np.zeros(8, np.bool_)
    while not ended.any():
        states, _, terminated, truncated, info = environment.step(np.zeros(8, np.int64))
        ended = terminated | truncated
    assert (np.abs(info["final_obs"][ended]).max(axis=1) > 0.2).all()
    assert (np.abs(states[ended]) <= 0.05).all()
    assert (environment.steps[ended] == 0).all()


def test_truncation_comes_at_the_limit() -> None:
    environment = RandomizedCartPole(4, DomainRandomization(), Reward(), max_episode_steps=5)
    environment.reset(seed=0)
    flags = [environment.step(np.array([0, 1, 0, 1]))[3].all() for _ in range(10)]
    assert [step for step, flag in enumerate(flags) if flag] == [4, 9]


@pytest.mark.parametrize("delay", [0, 1, 2, 3, 4])
def test_delayed_action_is_the_one_of_so_many_steps_ago(delay: int) -> None:
    late, prompt = VectorCartPole(1), VectorCartPole(1)
    parameters = PlantParameters.nominal(1)
    late.begin_episodes(np.arange(1), PlantParameters.nominal(1), np.random.default_rng(0))
    parameters.delay[:] = delay
    late.parameters = parameters
    late.apply_parameters()
    late.action_history[:] = 0
    prompt.state = late.state.copy()
    actions = [1, 0, 1, 1, 0, 1, 1, 1]
    for step, action in enumerate(actions):
        late.advance(np.array([action]))
        prompt.advance(np.array([actions[step - delay] if step >= delay else 0]))
        np.testing.assert_array_equal(late.state, prompt.state)


def test_noise_is_observed_but_does_not_move_the_cart() -> None:
    environment = RandomizedCartPole(2000, DomainRandomization(noise=0.1, nominal=0.0), Reward())
    environment.reset(seed=0)
    error = environment.observed_states - environment.state.T
    quiet = environment.parameters.noise == 0
    assert 0.4 < quiet.mean() < 0.6
    assert np.abs(error[quiet]).max() < 1e-6
    assert (error[~quiet] / environment.parameters.noise[~quiet, None]).std() == pytest.approx(
        1, abs=0.05
    )


def test_reward_is_one_upright_and_less_elsewhere() -> None:
    reward = Reward(position=0.5, velocity=0.1, angle=0.3, angular_velocity=0.1)
    states = np.array([[0, 0, 0, 0], [2.4, 0, 0, 0], [9, 9, 9, 9]], np.float64).T
    standing = np.zeros(3, np.bool_)
    np.testing.assert_allclose(reward.compute(states, standing), [1, 0.5, 0], atol=1e-6)
    assert (Reward().compute(states, ~standing) == 1).all()


def test_a_fall_has_its_own_reward_and_no_other() -> None:
    states = np.array([[2.4, 0, 0, 0], [2.4, 0, 0, 0]], np.float64).T
    rewards = Reward(alive=0.0, fall=-20.0, position=0.5).compute(states, np.array([False, True]))
    np.testing.assert_allclose(rewards, [-0.5, -20])


@pytest.mark.parametrize(
    "wrong",
    [{"force": (0, 1)}, {"pole_mass": (2, 1)}, {"push_chance": 2.0}, {"delay": 5}, {"noise": -1.0}],
)
def test_impossible_domain_randomization_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DomainRandomization(**wrong)
