"""Warm-up: a loaded policy in; afterwards its first answers are as fast as its later ones."""

import gc

from pydantic_core import to_json

from service import answers
from service.policy import Policy

TIMES = 50


def warm_up(policy: Policy) -> None:
    """Answer some states, and take what was made so far out of the garbage collector's rounds: it stays until the end."""
    exercise(policy)
    gc.collect()
    gc.freeze()


def exercise(policy: Policy) -> None:
    """Answer some states, and no more: what a reload leaves must not stay."""
    body = b'{"state":%s}' % to_json(policy.bundle.manifest.golden_states[0].state)  # the self-test has shown that it has an answer
    for _ in range(TIMES):
        answers.act(policy, body, None)
