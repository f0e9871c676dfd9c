"""Replay: a decision record and bundles in, what they answer differently now out. `python -m service replay FILE`.

On the machine that recorded, with the same versions, the same bundle by the same backend gives the same Q-values to the bit.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from models import bundle
from models.bundle import Bundle, BundleError
from service.inference.errors import PolicyError, QValuesNotFiniteError
from service.inference.loading import load
from service.inference.policy import Policy
from service.records.store import RecordError, Row, read
from service.settings import Settings

IDENTICAL, DIFFERENT, UNREADABLE, LEFT_OUT = 0, 1, 2, 3  # exit codes
AT_ONCE = 4_096  # rows
SHOWN = 10  # differences that are printed; the others are counted


@dataclass
class Found:
    """What a replay has found so far."""

    identical: int = 0
    different: int = 0
    other_actions: int = 0
    widest: float = 0.0  # difference between a Q-value then and now
    left_out: dict[str, int] = field(
        default_factory=dict
    )  # rows by the digest that no given bundle has

    @property
    def code(self) -> int:
        """The exit code that tells it."""
        return DIFFERENT if self.different else LEFT_OUT if self.left_out else IDENTICAL


def main(arguments: list[str]) -> int:
    """Replay a record, print what differs and how much there was, and return 0, or why not: 1 differs, 2 unreadable, 3 left out."""
    options = _parser().parse_args(arguments)
    try:
        found = replay(
            options.file, [bundle.read(folder) for folder in options.bundle or [Settings().bundle]]
        )
    except ValidationError as error:
        sys.stderr.write(
            f"upright: the settings name no bundle: {error.errors()[0]['msg']}; give one with --bundle\n"
        )
        return UNREADABLE
    except (RecordError, BundleError, PolicyError) as error:
        sys.stderr.write(f"upright: {error}\n")
        return UNREADABLE
    for digest, rows in found.left_out.items():
        _say(
            f"{rows} rows were left out: no bundle given is {digest}; name its folder with --bundle"
        )
    _say(
        f"{found.identical} rows are identical, {found.different} differ, {sum(found.left_out.values())} were left out"
    )
    if found.different:
        _say(
            f"{found.other_actions} have another action; the widest difference between Q-values is {found.widest:g}"
        )
    return found.code


def replay(path: Path, bundles: list[Bundle]) -> Found:
    """Answer every state of the record again, and say what differs. Raises `RecordError` and `PolicyError`."""
    known = {bundle.digest: bundle for bundle in bundles}
    policies: dict[tuple[str, str], Policy] = {}
    found = Found()
    for (digest, backend), rows in _runs(path):
        if digest not in known:
            found.left_out[digest] = found.left_out.get(digest, 0) + len(rows)
            continue
        if (digest, backend) not in policies:
            policies[digest, backend] = load(
                known[digest], "onnx" if backend == "onnx" else "torchscript"
            )
        _compare(rows, policies[digest, backend], found)
    return found


def _runs(path: Path) -> Iterator[tuple[tuple[str, str], list[Row]]]:
    """Return the rows in runs of one bundle and backend, not too many at once."""
    for key, rows in groupby(read(path), lambda row: (row.digest, row.backend)):
        while some := list(islice(rows, AT_ONCE)):
            yield key, some


def _compare(rows: list[Row], policy: Policy, found: Found) -> None:
    states = np.array([row.state for row in rows], np.float64).astype(np.float32)
    try:
        now = policy.decide(states)
    except QValuesNotFiniteError as error:
        raise PolicyError(
            f"request {rows[error.row].request_id}: {error}, though one was recorded"
        ) from error
    for row, q_values, action, names in zip(
        rows, now.q_values, now.actions, now.out_of_range, strict=True
    ):
        if (
            list(row.q_values) == q_values
            and row.action == action
            and row.out_of_range == (",".join(names) or None)
        ):
            found.identical += 1
            continue
        found.different += 1
        found.other_actions += row.action != action
        found.widest = max(
            found.widest,
            *(abs(then - now) for then, now in zip(row.q_values, q_values, strict=True)),
        )
        if found.different <= SHOWN:
            then = f"{list(row.q_values)}, action {row.action}, out of range: {row.out_of_range or 'none'}"
            _say(
                f"request {row.request_id}, state {row.row}: {then}; now {q_values}, action {action}, {', '.join(names) or 'none'}"
            )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m service replay",
        description="Answer every state of a decision record again, and report what differs.",
        epilog="exit code: 0 all identical, 1 some differ, 2 cannot be read, 3 none differs but some rows have no bundle",
    )
    parser.add_argument(
        "file", type=Path, help="the record as --record names it, or one of its older files"
    )
    parser.add_argument(
        "--bundle",
        type=Path,
        action="append",
        metavar="FOLDER",
        help="a bundle that answered; again for others; default: the configured one",
    )
    return parser


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
