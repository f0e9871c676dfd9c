"""Warm-up: a loaded policy in; afterwards its first answers are as fast as its later ones."""

import gc

from pydantic_core import to_json

from service.api import act as answers
from service.inference.policy import Policy

TIMES = 50
OLD_ROUNDS = 1_000  # rounds of the collector until it looks at all that is alive, which holds every answer up: 0.1 s with 2,000 connections


def warm_up(policy: Policy) -> None:
    """Answer some states, and take what was made so far out of the garbage collector's rounds: it stays until the end."""
    exercise(policy)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*gc.get_threshold()[:2], OLD_ROUNDS)


def exercise(policy: Policy) -> None:
    """Answer some states, and no more: what a reload leaves must not stay."""
    body = b'{"state":%s}' % to_json(
        policy.bundle.manifest.golden_states[0].state
    )  # the self-test has shown that it has an answer
    for _ in range(TIMES):
        answers.act(policy, body, None)
