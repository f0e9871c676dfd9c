"""Every endpoint once: its path, the scope that a key needs for it, its label in the metrics, and whether it is refused under load.

gRPC's methods have paths too. A path that is not in the table needs the scope `admin`, so an endpoint that somebody adds and
forgets here is closed to everybody but an administrator.
"""

import re
from dataclasses import dataclass
from typing import Literal, get_args

Scope = Literal["act", "admin", "metrics"]
SCOPES: tuple[Scope, ...] = get_args(Scope)

GRPC_LABEL = "grpc"  # all gRPC calls are counted under one label
OTHER_LABEL = "other"  # whatever is not in the table
OPEN_INFERENCE_PREFIX = "/v2"
INFERENCE_SERVICE = "/inference.GRPCInferenceService"


@dataclass(frozen=True)
class Endpoint:
    """What the service must know of an endpoint before it answers."""

    path: str
    scope: Scope | None  # None: answered without a key
    label: str  # of the metrics and the log
    always_answered: bool = False  # even while as many requests are in flight as may be


def _rest(path: str, scope: Scope | None, *, always_answered: bool = False) -> Endpoint:
    return Endpoint(path, scope, path, always_answered)


def _docs(path: str) -> Endpoint:
    return Endpoint(path, None, path if path == "/docs" else OTHER_LABEL)


def _v2(path: str, scope: Scope | None, *, always_answered: bool = False) -> Endpoint:
    label = OPEN_INFERENCE_PREFIX
    return Endpoint(OPEN_INFERENCE_PREFIX + path, scope, label, always_answered)


def _grpc(path: str, scope: Scope | None) -> Endpoint:
    return Endpoint(path, scope, GRPC_LABEL)


# Health is open because probes carry no key, the page and the documentation because they show what the project's repository shows.
_TABLE = (
    _rest("/act", "act"),
    _rest("/act/batch", "act"),
    _rest("/act/stream", "act"),
    _rest("/model", "act"),
    _rest("/model/rollback", "admin"),
    _rest("/shadow", "admin"),
    _rest("/shadow/promote", "admin"),
    _rest("/shadow/act", "admin"),
    _rest("/health/live", None, always_answered=True),
    _rest("/health/ready", None, always_answered=True),
    _rest("/metrics", "metrics", always_answered=True),
    _rest("/", None),
    _rest("/openapi.json", None),
    _docs("/docs"),
    _docs("/docs/swagger-ui-bundle.js"),
    _docs("/docs/swagger-ui.css"),
    _docs("/docs/favicon.png"),
    _v2("", "act"),
    _v2("/health/live", None, always_answered=True),
    _v2("/health/ready", None, always_answered=True),
    _v2("/repository/index", "act"),
    _grpc(f"{INFERENCE_SERVICE}/ServerLive", None),
    _grpc(f"{INFERENCE_SERVICE}/ServerReady", None),
    _grpc(f"{INFERENCE_SERVICE}/ModelReady", None),
    _grpc(f"{INFERENCE_SERVICE}/ServerMetadata", "act"),
    _grpc(f"{INFERENCE_SERVICE}/ModelMetadata", "act"),
    _grpc(f"{INFERENCE_SERVICE}/ModelConfig", "act"),
    _grpc(f"{INFERENCE_SERVICE}/ModelInfer", "act"),
    _grpc(f"{INFERENCE_SERVICE}/RepositoryIndex", "act"),
    _grpc(f"{INFERENCE_SERVICE}/RepositoryModelLoad", "admin"),
    _grpc(f"{INFERENCE_SERVICE}/RepositoryModelUnload", "admin"),
    _grpc("/grpc.health.v1.Health/Check", None),
    _grpc("/grpc.health.v1.Health/List", None),
    _grpc("/grpc.health.v1.Health/Watch", None),
    _grpc("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", None),
)
ENDPOINTS = {endpoint.path: endpoint for endpoint in _TABLE}
LABELS = tuple(dict.fromkeys([*(endpoint.label for endpoint in _TABLE), OTHER_LABEL]))

_MODEL = re.compile(r"/v2/models/[^/]+(?:/versions/[^/]+)?(?P<rest>|/config|/infer|/ready)")
_PAGE_FILE = re.compile(r"/page/[^/]+")
_BUNDLE_FILE = re.compile(r"/model/files/[^/]+/[^/]+")


def endpoint_of(path: str) -> Endpoint:
    """Return the endpoint at a request's path."""
    endpoint = ENDPOINTS.get(path)
    if endpoint is not None:
        return endpoint
    if match := _MODEL.fullmatch(path):
        return Endpoint(path, None if match["rest"] == "/ready" else "act", OPEN_INFERENCE_PREFIX)
    if _PAGE_FILE.fullmatch(path):
        return Endpoint(path, None, "/")
    if _BUNDLE_FILE.fullmatch(path):
        return Endpoint(path, "act", "/model")
    below_v2 = path.startswith(f"{OPEN_INFERENCE_PREFIX}/")
    return Endpoint(path, "admin", OPEN_INFERENCE_PREFIX if below_v2 else OTHER_LABEL)
