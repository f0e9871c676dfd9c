"""The gate: what a recipe asks of a policy before it is exported."""

from typing import Literal

from models.manifest import Evaluation, Gate, RobustnessEvaluation, ScenarioResult

GateName = Literal["tutorial", "nominal", "robust"]

REQUIRED_RATIO = 0.95  # of the LQR's success rate, in every scenario


def required_rate(scenario: ScenarioResult) -> float:
    """Return the least success rate that passes the gate `robust` in a scenario."""
    return REQUIRED_RATIO * scenario.lqr_success_rate


def check_gate(
    name: GateName, evaluation: Evaluation, robustness: RobustnessEvaluation, *, stopped: str
) -> Gate:
    """Return whether a policy passes a gate, and what it failed.

    `tutorial`: training stopped by the tutorial's own rule, which looks at the last ten episodes;
    `stopped` says why it did. `nominal`: every greedy episode lasts to the time limit. `robust`:
    that, and in every required scenario of the robustness evaluation at least 95 % of the LQR's
    success rate.
    """
    failures = []
    if name == "tutorial":
        if stopped != "solved":
            failures.append(f"training did not stop by the tutorial's rule, but: {stopped}")
    elif evaluation.success_rate < 1:
        failures.append(
            f"{evaluation.success_rate:.2%} of {evaluation.episodes:,} greedy episodes lasted to"
            " the time limit, not all"
        )
    if name == "robust":
        failures += [
            f"scenario {scenario.name}: success rate {scenario.success_rate:.1%},"
            f" below {REQUIRED_RATIO:.0%} of the LQR's {scenario.lqr_success_rate:.1%}"
            for scenario in robustness.scenarios
            if scenario.is_required and scenario.success_rate < required_rate(scenario)
        ]
    return Gate(name=name, passed=not failures, failures=tuple(failures))
