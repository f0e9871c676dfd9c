"""Reads the service's metrics, and asks by gRPC what they count."""

import warnings
from collections.abc import Sequence

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from tests.support.service import reachable, wait_for

STATE = [0.0, 0.0, 0.05, 0.0]


def samples(text: str) -> dict[tuple[str, tuple[str, ...]], float]:
    """Return every sample by its name and its label values."""
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def ask_by_grpc(
    port: int,
    state: Sequence[float] = STATE,
    *,
    model: str = "cartpole-dqn",
    datatype: str = "FP32",
    headers: dict[str, str] | None = None,
) -> None:
    """Ask for an action. Raises `InferenceServerException`."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # what other people's modules warn of when they are imported is no claim of ours
        import tritonclient.grpc

    wait_for(lambda: reachable(port))
    given = tritonclient.grpc.InferInput("state", [1, 4], datatype)
    given.set_data_from_numpy(np.array([state], np.float32 if datatype == "FP32" else np.bool_))
    with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{port}") as client:
        client.infer(model, [given], request_id="by-grpc", headers=headers)
