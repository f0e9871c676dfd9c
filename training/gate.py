"""The gate: an evaluation and an exam in, whether the policy may be exported out."""

from typing import Literal

from models.bundle import Evaluation, Exam, Gate

GateName = Literal["nominal", "robust"]

REQUIRED_SHARE = 0.95  # of the reference controller's share, in every column of the exam


def judge(name: GateName, evaluation: Evaluation, exam: Exam) -> Gate:
    """Hold a policy to a gate.

    `nominal`: every greedy episode lasts to the time limit. `robust`: that, and in every column of the exam the policy survives at least
    95 % of the share of runs that the linear-quadratic regulator does.
    """
    failures = []
    if evaluation.share_at_limit < 1:
        failures.append(
            f"{evaluation.share_at_limit:.2%} of {evaluation.episodes:,} greedy episodes lasted to the time limit, not all"
        )
    if name == "robust":
        failures += [
            f"exam, {column.name}: {column.share:.1%} of the runs survived,"
            f" below {REQUIRED_SHARE:.0%} of the regulator's {column.reference:.1%}"
            for column in exam.columns
            if column.share < REQUIRED_SHARE * column.reference
        ]
    return Gate(name=name, passed=not failures, failures=tuple(failures))
