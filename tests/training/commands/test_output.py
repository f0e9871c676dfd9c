"""What is printed of an evaluation says what the gate judged, and what it did not ask for."""

import pytest

from models.bundle import Bundle
from models.manifest import Gate, RobustnessEvaluation
from training.commands.output import Output
from training.recipes import RECIPES


def printed(
    bundle: Bundle,
    robustness: RobustnessEvaluation,
    gate: Gate,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    monkeypatch.setenv("COLUMNS", "80")
    Output(json_output=False).print_evaluation(bundle.manifest.evaluation, robustness, gate)
    return capsys.readouterr().out


def with_rates(bundle: Bundle, **rates: float) -> RobustnessEvaluation:
    """Return the bundle's evaluation with other success rates, by names with _ for a space."""
    by_name = {name.replace("_", " "): rate for name, rate in rates.items()}
    robustness = bundle.manifest.robustness
    scenarios = tuple(
        each.model_copy(update={"success_rate": by_name.get(each.name, each.success_rate)})
        for each in robustness.scenarios
    )
    return robustness.model_copy(update={"scenarios": scenarios})


def row(text: str, scenario: str) -> str:
    return next(line for line in text.splitlines() if line.strip().startswith(scenario))


def test_each_row_that_the_gate_judges_shows_what_it_asks_for(
    committed: Bundle, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = printed(
        committed,
        with_rates(committed, delay_2=0.5),
        Gate(name="robust", passed=False, failures=("scenario delay 2",)),
        capsys,
        monkeypatch,
    )
    assert row(text, "delay 1").rstrip().endswith("≥ 0.950")
    assert row(text, "delay 2").rstrip().endswith("< 0.950")
    assert row(text, "40 % dropped").rstrip().endswith("]")  # no gate asks for it
    assert "by the rate in its last column" in " ".join(text.split())
    assert len([line for line in text.splitlines() if line.startswith(" ")]) == (
        len(committed.manifest.robustness.scenarios) + 4  # no row takes two lines
    )


def test_a_policy_that_survives_nothing_of_a_delay_says_so_before_it_has_passed(
    committed: Bundle, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = printed(
        committed,
        with_rates(committed, delay_2=0.0, delay_3=0.0025),
        Gate(name="nominal", passed=True, failures=()),
        capsys,
        monkeypatch,
    )
    judged, lost, result = text.splitlines()[-3:]
    assert judged == "The gate nominal judges by the greedy episodes above the table alone."
    assert lost.startswith("The policy is lost in nearly every episode of: delay 2; delay 3.")
    assert lost.endswith("The gate nominal does not ask for them.")
    assert result == "gate nominal: passed"
    assert row(text, "delay 2").rstrip().endswith("]")


@pytest.mark.parametrize("name", list(RECIPES))
def test_the_lines_of_training_have_a_legend(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    Output(json_output=False).print_legend(RECIPES[name])
    assert "ε: share of random actions" in capsys.readouterr().out


def test_what_is_better_and_worse_than_the_lqr_is_said_by_intervals(
    committed: Bundle, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = {
        scenario.name: scenario.lqr_success_rate
        for scenario in committed.manifest.robustness.scenarios
    }
    robustness = with_rates(committed, **{**rates, "recovery": 0.9, "push_1": 0.5})
    gate = Gate(name="nominal", passed=True, failures=())
    lines = printed(committed, robustness, gate, capsys, monkeypatch).splitlines()
    assert "better than the LQR: recovery" in lines
    assert "worse than the LQR: push 1" in lines


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
