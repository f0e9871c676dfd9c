"""The phone: a state in, a decision out, within the deadline. Knows nothing of networks with weights, nor of how the service is built."""

from upright_client.aio import AsyncPolicyClient
from upright_client.decision import Counters, Decision, LastAction, Model, NoAnswerError, Reason
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
