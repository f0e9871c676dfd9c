"""Calls an Upright service from a control loop: a decision within the deadline, whatever happens.

`PolicyClient` is for programs with threads, `AsyncPolicyClient` for programs with an event loop.
"""

from upright_client.aio import AsyncPolicyClient
from upright_client.decision import Counters, Decision, LastAction, Model, Reason
from upright_client.errors import NoAnswerError
from upright_client.sync import PolicyClient

__all__ = [
    "AsyncPolicyClient",
    "Counters",
    "Decision",
    "LastAction",
    "Model",
    "NoAnswerError",
    "PolicyClient",
    "Reason",
]
