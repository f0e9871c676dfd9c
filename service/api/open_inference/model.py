"""The one model of the Open Inference Protocol: its names, and what describes it.

The model is called by its bundle's name, or by the names that the settings give it: the first is
the one that answers, the others are aliases. KServe, for one, calls a model by the name of its
InferenceService, which knows nothing of bundles.
"""

from collections.abc import Sequence
from http import HTTPStatus

from service.api.open_inference.protocol import INPUT, OpenInferenceError
from service.inference.backends import STATE_SIZE
from service.inference.policy import Policy
from service.types import Totals

PLATFORM = "onnx_onnxv1"


class ServedModel:
    """The model, as callers know it. What is served behind its names may be replaced."""

    def __init__(self, names: Sequence[str], max_batch: int) -> None:
        """Keep the names that the settings give; without any, the bundle's name is the model's."""
        self._names = tuple(dict.fromkeys(names))
        self._max_batch = max_batch

    def name(self, policy: Policy) -> str:
        """Return the name that answers."""
        return self.names(policy)[0]

    def names(self, policy: Policy) -> tuple[str, ...]:
        """Return all names that the model may be called by."""
        return self._names or (policy.bundle.manifest.name,)

    def bundle_name(self, name: str) -> str | None:
        """Return the name that a bundle must have to be loaded as `name`; None for any."""
        return None if self._names else name

    def check(
        self, policy: Policy, name: str, version: str | None, *, has_key: bool = True
    ) -> None:
        """Refuse a model or a version that is not served, and say which one is.

        What is answered without a key says nothing that the caller has not said itself. Raises
        `OpenInferenceError` with status 404.
        """
        served = policy.bundle.manifest.version
        if name not in self.names(policy):
            refusal, hint = f"there is no model {name[:100]!r}", f"{self.name(policy)!r} is served"
        elif version and version != served:
            refusal = f"there is no version {version[:100]!r} of {name!r}"
            hint = f"version {served!r} is served"
        else:
            return
        message = f"{refusal}; {hint}" if has_key else refusal
        raise OpenInferenceError(HTTPStatus.NOT_FOUND, message)

    def metadata(self, policy: Policy) -> dict[str, object]:
        """Return what the protocol calls the model's metadata."""
        manifest = policy.bundle.manifest
        return {
            "name": self.name(policy),
            "versions": [manifest.version],
            "platform": PLATFORM,
            # Texts, as the protocol's gRPC message has them.
            "properties": {"step_seconds": f"{manifest.environment.step_seconds:g}"},
            "inputs": [{"name": INPUT, "datatype": "FP32", "shape": [-1, STATE_SIZE]}],
            "outputs": [
                {"name": "q_values", "datatype": "FP32", "shape": [-1, len(manifest.actions)]},
                {"name": "action", "datatype": "INT64", "shape": [-1]},
            ],
        }

    def config(self, policy: Policy) -> dict[str, object]:
        """Return the model as Triton's own configuration would describe it.

        Shapes are without the batch.
        """
        actions = policy.bundle.manifest.actions
        return {
            "name": self.name(policy),
            "platform": PLATFORM,
            "max_batch_size": self._max_batch,
            "input": [{"name": INPUT, "data_type": "TYPE_FP32", "dims": [STATE_SIZE]}],
            "output": [
                {"name": "q_values", "data_type": "TYPE_FP32", "dims": [len(actions)]},
                {"name": "action", "data_type": "TYPE_INT64", "dims": []},
            ],
        }

    def statistics(self, policy: Policy, totals: Totals) -> dict[str, object]:
        """Return what was inferred since the service began, as Triton's statistics would.

        They count every way in which the model was asked, below /v2 or not, and whichever bundle
        answered. An inference neither waits in a queue nor is its input prepared apart, so those
        took no time. What failed is counted, but not timed.
        """
        nothing = {"count": 0, "ns": 0}
        untimed = {"count": totals.inferences, "ns": 0}
        timed = {"count": totals.inferences, "ns": round(totals.seconds * 1e9)}
        statistics = {
            "name": self.name(policy),
            "version": policy.bundle.manifest.version,
            "last_inference": round(totals.last * 1e3),
            "inference_count": totals.states,
            "execution_count": totals.inferences,
            "inference_stats": {
                "success": timed,
                "fail": {"count": totals.failures, "ns": 0},
                "queue": untimed,
                "compute_input": untimed,
                "compute_infer": timed,
                "compute_output": untimed,
                "cache_hit": nothing,
                "cache_miss": nothing,
            },
            "response_stats": {},
            "batch_stats": [],
            "memory_usage": [],
        }
        return {"model_stats": [statistics]}

    def index(self, policy: Policy) -> list[dict[str, str]]:
        """Return the repository's models: the one that is served, by the name that answers."""
        return [self._entry(policy, self.name(policy))]

    def models(self, policy: Policy) -> list[dict[str, str]]:
        """Return an entry for each name that the model may be called by."""
        return [self._entry(policy, name) for name in self.names(policy)]

    def _entry(self, policy: Policy, name: str) -> dict[str, str]:
        version = policy.bundle.manifest.version
        return {"name": name, "version": version, "state": "READY", "reason": ""}
