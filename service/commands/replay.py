"""Replaying a decision record: what bundles answer differently now.

On the machine that recorded, with the same versions, the same bundle by the same backend gives the
same Q-values to the bit.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from models import bundle as bundles
from models.bundle import Bundle, BundleError
from service.commands.command_line import ReplayOptions
from service.commands.output import OutputError, print_result
from service.inference.backends import BackendName
from service.inference.errors import PolicyError, QValuesNotFiniteError
from service.inference.loading import load
from service.inference.policy import Policy
from service.observability.logging import print_error
from service.records.reader import read
from service.records.schema import RecordError, Row
from service.settings import ConfigFileError, Settings

IDENTICAL, DIFFERENT, FAILED, LEFT_OUT = 0, 1, 2, 3  # exit codes
BLOCK_ROWS = 4_096  # that are answered at once
PRINTED_DIFFERENCES = 10  # the others are counted


@dataclass
class Comparison:
    """What a replay has seen so far."""

    identical: int = 0
    different: int = 0
    other_actions: int = 0
    widest: float = 0.0  # difference between a recorded Q-value and today's
    left_out: Counter[str] = field(default_factory=Counter)  # rows by a digest that no bundle has

    def count_identical(self) -> None:
        """Count a row that was answered as it was recorded."""
        self.identical += 1

    def count_different(self, *, has_other_action: bool, gap: float) -> None:
        """Count a row that was not; `gap` is the largest difference in its Q-values."""
        self.different += 1
        self.other_actions += has_other_action
        self.widest = max(self.widest, gap)

    @property
    def exit_code(self) -> int:
        """The exit code of the command."""
        if self.different:
            return DIFFERENT
        return LEFT_OUT if self.left_out else IDENTICAL


def run(options: ReplayOptions) -> int:
    """Replay a record and print what differs. Returns one of the exit codes above."""
    try:
        folders = options.bundle or [Settings().bundle]
        comparison = replay(options.file, [bundles.read(folder) for folder in folders])
        _print_comparison(comparison)
    except ValidationError as error:
        message = error.errors(include_url=False)[0]["msg"]
        print_error(f"the settings name no bundle: {message}; give one with --bundle")
        return FAILED
    except (RecordError, BundleError, PolicyError, ConfigFileError, OutputError) as error:
        print_error(str(error))
        return FAILED
    return comparison.exit_code


def _print_comparison(comparison: Comparison) -> None:
    for digest, rows in comparison.left_out.items():
        print_result(
            f"{rows} rows were left out: no bundle given is {digest}; name its folder with --bundle"
        )
    print_result(
        f"{comparison.identical} rows are identical, {comparison.different} differ,"
        f" {comparison.left_out.total()} were left out"
    )
    if comparison.different:
        print_result(
            f"{comparison.other_actions} have another action; the widest difference between"
            f" Q-values is {comparison.widest:g}"
        )


def replay(record: Path, candidates: list[Bundle]) -> Comparison:
    """Answer every state of a record again, each by the bundle that has its digest.

    Raises `RecordError`, `PolicyError` and `OutputError`.
    """
    by_digest = {bundle.digest: bundle for bundle in candidates}
    policies: dict[tuple[str, BackendName], Policy] = {}
    comparison = Comparison()
    for (digest, backend), rows in _blocks(record):
        if digest not in by_digest:
            comparison.left_out[digest] += len(rows)
            continue
        if (digest, backend) not in policies:
            policies[digest, backend] = load(by_digest[digest], backend)
        _compare(rows, policies[digest, backend], comparison)
    return comparison


def _blocks(record: Path) -> Iterator[tuple[tuple[str, BackendName], list[Row]]]:
    """Give the rows in blocks, each of one digest and one backend."""
    for key, rows in groupby(read(record), lambda row: (row.digest, row.backend)):
        while block := list(islice(rows, BLOCK_ROWS)):
            yield key, block


def _compare(rows: list[Row], policy: Policy, comparison: Comparison) -> None:
    states = np.array([row.state for row in rows], np.float64).astype(np.float32)
    try:
        decisions = policy.decide(states)
    except QValuesNotFiniteError as error:
        request_id = rows[error.row].request_id
        raise PolicyError(f"request {request_id}: {error}, though one was recorded") from error

    answers = zip(decisions.q_values, decisions.actions, decisions.out_of_range, strict=True)
    for row, (q_values, action, names) in zip(rows, answers, strict=True):
        is_identical = (
            list(row.q_values) == q_values
            and row.action == action
            and row.out_of_range == (",".join(names) or None)
        )
        if is_identical:
            comparison.count_identical()
            continue

        pairs = zip(row.q_values, q_values, strict=True)
        comparison.count_different(
            has_other_action=row.action != action, gap=max(abs(old - new) for old, new in pairs)
        )
        if comparison.different <= PRINTED_DIFFERENCES:
            recorded = f"{list(row.q_values)}, action {row.action}"
            print_result(
                f"request {row.request_id}, state {row.row}: {recorded}, out of range:"
                f" {row.out_of_range or 'none'}; now {q_values}, action {action},"
                f" {', '.join(names) or 'none'}"
            )
