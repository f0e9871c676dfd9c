"""The gate asks for what it says, and for nothing that is only told."""

import pytest

from models.manifest import Evaluation, RobustnessEvaluation, ScenarioResult
from training.evaluation.gate import check_gate

GOOD = Evaluation(seed=1, episodes=100, mean=500, minimum=500, success_rate=1)


def robustness(rate: float, *, is_required: bool) -> RobustnessEvaluation:
    scenario = ScenarioResult(
        name="noise 9",
        steps=500,
        episodes=400,
        success_rate=rate,
        lqr_success_rate=0.5,
        is_required=is_required,
    )
    return RobustnessEvaluation(seed=1, scenarios=(scenario,))


@pytest.mark.parametrize(("rate", "passes"), [(0.474, False), (0.475, True), (1.0, True)])
def test_a_required_scenario_must_be_at_95_percent_of_the_lqr(rate: float, passes: bool) -> None:
    gate = check_gate("robust", GOOD, robustness(rate, is_required=True), stopped="solved")
    assert gate.passed is passes
    assert all("noise 9" in failure for failure in gate.failures)
    assert len(gate.failures) == (not passes)


def test_a_scenario_that_is_told_alone_fails_no_policy() -> None:
    assert check_gate("robust", GOOD, robustness(0, is_required=False), stopped="solved").passed


def test_a_fallen_pole_fails_what_promises_none() -> None:
    fallen = GOOD.model_copy(update={"success_rate": 0.999})
    for name in ("nominal", "robust"):
        assert not check_gate(
            name, fallen, robustness(1, is_required=True), stopped="solved"
        ).passed
    assert check_gate("tutorial", fallen, robustness(0, is_required=True), stopped="solved").passed
    assert not check_gate("tutorial", GOOD, robustness(1, is_required=True), stopped="steps").passed
