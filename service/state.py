"""What this process serves now: the policy, the keys, the certificate, and whether it drains.

Every endpoint reads the policy here, once a request: a request finishes on the policy that it began
with, whatever replaces it.
"""

from collections.abc import Callable

from service.auth.keys import Keys
from service.auth.tls import Tls
from service.inference.policy import Policy
from service.observability.metrics import Metrics
from service.observability.observers import Observers


class ServiceState:
    """The state that all endpoints of a process share. Only its own methods change it."""

    def __init__(
        self,
        policy: Policy,
        *,
        metrics: Metrics | None = None,
        keys: Keys | None = None,
        tls: Tls | None = None,
    ) -> None:
        self.policy = policy
        self.draining = False  # told to stop: still answers, but asks not to be sent more
        self._draining_callbacks: list[Callable[[], None]] = []
        self.keys = keys  # None: whoever reaches the service is answered
        self.tls = tls
        manifest = policy.bundle.manifest
        self.metrics = metrics or Metrics(
            manifest.actions, [value.name for value in manifest.state]
        )
        self.observers = Observers(self.metrics)

    def replace_policy(self, policy: Policy) -> None:
        """Let another policy answer the requests that come from now on."""
        self.policy = policy

    def start_draining(self) -> None:
        """Say by readiness that no more requests should be sent."""
        self.draining = True
        for callback in self._draining_callbacks:
            callback()

    def on_draining(self, callback: Callable[[], None]) -> None:
        """Have `callback` called when draining starts, by a signal handler: it must not wait."""
        self._draining_callbacks.append(callback)

    def renew_secrets(self) -> None:
        """Read the keys and the certificate again, where there are any.

        It takes a millisecond, and belongs into the event loop's own thread.
        """
        for secret in (self.keys, self.tls):
            if secret is not None:
                secret.reload()

    def exposition(self) -> bytes:
        """Return the metrics and what describes the policy as Prometheus text."""
        bundle = self.policy.bundle
        labels = {
            "model": bundle.manifest.name,
            "version": bundle.manifest.version,
            "digest": bundle.digest,
            "backend": self.policy.backend_name,
        }
        return self.metrics.exposition(labels, ready=not self.draining)
