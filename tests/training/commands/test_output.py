"""What the commands print of an evaluation fits a terminal, and says what it means."""

import pytest

from models.manifest import Evaluation, Gate, RobustnessEvaluation, ScenarioResult
from training.commands.output import Output
from training.evaluation.robustness import SCENARIOS


def evaluation_of(rates: dict[str, float]) -> RobustnessEvaluation:
    """Return success rates as given, and .4321 of all others as of the LQR everywhere."""
    scenarios = tuple(
        ScenarioResult(
            name=scenario.name,
            steps=scenario.steps,
            episodes=scenario.episodes,
            success_rate=rates.get(scenario.name, 0.4321),
            lqr_success_rate=0.4321,
            is_required=scenario.is_required,
        )
        for scenario in SCENARIOS
    )
    return RobustnessEvaluation(seed=2**31 + 2**30, scenarios=scenarios, recovery=None)


def test_each_scenario_is_a_line_of_eighty_columns_and_the_comparison_is_put_into_words(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Output(json_output=False).print_evaluation(
        Evaluation(seed=2**31 + 2**30, episodes=1_000, mean=500, minimum=500, success_rate=1),
        evaluation_of({"recovery": 0.9876, "push 2": 0.1, "delay 4": 0.45}),
        Gate(name="nominal", passed=True, failures=()),
    )
    lines = capsys.readouterr().out.splitlines()
    for scenario in SCENARIOS:
        (line,) = [line for line in lines if line.startswith(f"{scenario.name} ") and "[" in line]
        assert line.count("[") == 2
        assert len(line) <= 80
    assert "better than the LQR: recovery" in lines
    assert "worse than the LQR: push 2" in lines


def test_elsewhere_than_in_a_terminal_each_stage_is_told_once_as_it_begins(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for json_output, expected in (
        (False, ["stage pictures", "stage files"]),
        (True, ['{"stage": "pictures"}', '{"stage": "files"}']),
    ):
        with Output(json_output=json_output).stages() as on_stage:
            for stage, done in (("pictures", 0.0), ("pictures", 0.5), ("files", 0.0)):
                on_stage(stage, done)
        assert capsys.readouterr().out.splitlines() == expected
