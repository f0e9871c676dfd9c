"""What a sweep keeps of a training."""

import torch

from training.recipes import recipe
from training.sweep.results import score_of
from training.train import trainer_for


def test_a_training_has_a_score_at_its_checks_and_none_between() -> None:
    tiny = recipe(
        "robust",
        {
            "agents": 2,
            "num_envs": 4,
            "hidden": (16, 16),
            "steps": 1_200,
            "eval_frequency": 150,
            "buffer_size": 3_000,
            "learning_starts": 200,
        },
    )
    trainer = trainer_for(tiny, 0, torch.device("cpu"))
    reports = []
    while trainer.stopped is None:
        reports.append(trainer.advance(lambda: 1.0))
    scores = [score_of(report.metrics) for report in reports]
    assert [score is not None for score in scores] == [report.is_logged for report in reports]
    assert {score is None for score in scores} == {True, False}
