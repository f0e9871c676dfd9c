import dataclasses

import numpy as np
import pytest
import torch

from training.envs.state_statistics import QUANTILES, StateStatistics
from training.network import choose_device
from training.recipes import recipe
from training.train import train
from training.trainer import Progress, Run

CPU = torch.device("cpu")


def weights(run: Run) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in run.network.state_dict().items()}


def test_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    short = recipe("baseline", {"episodes": 40})
    first, again, other = train(short, 3, CPU), train(short, 3, CPU), train(short, 4, CPU)
    assert weights(first) == weights(again)
    assert first.history == again.history
    assert first.state_summary == again.state_summary
    assert weights(first) != weights(other)


def test_last_step_of_a_failed_episode_costs_and_the_other_steps_pay(short_run: Run) -> None:
    assert all(row["steps"] < 500 for row in short_run.history)
    assert all(row["score"] == row["steps"] - 1 - 10 for row in short_run.history)


def test_full_episode_is_no_failure() -> None:
    run = train(
        recipe(
            "baseline",
            {"stop_window": 1, "stop_mean": 499, "episodes": 5000, "epsilon_decay": 0.98},
        ),
        0,
        CPU,
    )
    assert run.stopped == "solved"
    assert run.history[-1]["steps"] == run.history[-1]["score"] == 500


def test_epsilon_falls_after_each_episode_and_never_below_its_minimum() -> None:
    run = train(
        recipe("baseline", {"episodes": 30, "epsilon_decay": 0.8, "epsilon_min": 0.01}), 0, CPU
    )
    expected = [max(0.01, 0.8**number) for number in range(30)]
    np.testing.assert_allclose([row["epsilon"] for row in run.history], expected)


def test_nothing_is_learned_before_more_than_a_minibatch_is_stored() -> None:
    torch.manual_seed(0)
    untouched = train(recipe("baseline", {"episodes": 1, "batch_size": 1999}), 0, CPU)
    learned = train(recipe("baseline", {"episodes": 1, "batch_size": 4}), 0, CPU)
    torch.manual_seed(0)
    fresh = dataclasses.replace(untouched, network=type(untouched.network)())
    assert weights(untouched) == weights(fresh)
    assert weights(learned) != weights(fresh)


def test_training_stops_after_more_episodes_than_its_window() -> None:
    run = train(recipe("baseline", {"stop_mean": -100}), 0, CPU)
    assert run.stopped == "solved"
    assert len(run.history) == 11


def test_training_ends_at_the_limit_of_episodes() -> None:
    run = train(recipe("baseline", {"episodes": 12}), 0, CPU)
    assert run.stopped == "limit"
    assert len(run.history) == 12


def test_interrupted_training_keeps_what_it_learned() -> None:
    reports: list[Progress] = []
    run = train(
        recipe("baseline", {}),
        0,
        CPU,
        on_progress=reports.append,
        interrupted=lambda: len(reports) >= 20,
    )
    assert run.stopped == "interrupted"
    assert len(run.history) == len(reports) == 20
    assert weights(run) == weights(train(recipe("baseline", {"episodes": 20}), 0, CPU))


def test_progress_counts_steps_and_averages_the_last_hundred_scores() -> None:
    reports: list[Progress] = []
    run = train(recipe("baseline", {"episodes": 130}), 0, CPU, on_progress=reports.append)
    assert reports[-1].metrics["steps"] == sum(row["steps"] for row in run.history) == run.steps
    assert reports[-1].metrics["mean_score"] == pytest.approx(
        np.mean([row["score"] for row in run.history[-100:]])
    )


@pytest.mark.parametrize("seed", [-1, 2**31])
def test_seeds_of_the_evaluations_are_refused(seed: int) -> None:
    with pytest.raises(ValueError, match="seed"):
        train(recipe("baseline", {}), seed, CPU)


def test_cuda_where_there_is_none_is_refused_by_name() -> None:
    if torch.cuda.is_available():
        assert choose_device("cuda").type == choose_device("auto").type == "cuda"
    else:
        assert choose_device("auto").type == "cpu"
        with pytest.raises(ValueError, match="cuda"):
            choose_device("cuda")


def test_range_and_quantiles_are_those_of_all_states() -> None:
    states = np.random.default_rng(0).normal(size=(100_000, 4)).astype(np.float32)
    statistics = StateStatistics(np.random.default_rng(1))
    for chunk in np.array_split(states, 700):
        statistics.update(chunk)
    assert (statistics.minimum == states.min(axis=0)).all()
    assert (statistics.maximum == states.max(axis=0)).all()
    # A sample of 20,000 of a normal distribution: the median's standard error is 0.009, that of
    # the 1 % quantile 0.026.
    for fraction in (0.01, 0.5, 0.99):
        row = statistics.quantiles()[QUANTILES.index(fraction)]
        np.testing.assert_allclose(row, np.quantile(states, fraction, axis=0), atol=0.11)
