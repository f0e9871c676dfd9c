"""Every path that the service answers, once.

Keys, routes, metrics and the OpenAPI document read this table, so they cannot disagree about a
path. gRPC's methods are paths too. A path that is not in the table is not found; it needs the scope
`admin` all the same, so that a key of any other scope learns nothing by it.
"""

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

    path: str  # may have parameters in braces; each stands for a part without a slash
    scope: Scope | None  # that a key needs; None: answered without a key
    label: str  # of the metrics and the log
    always_answered: bool = False  # also at the limit of concurrent requests


def _rest(path: str, scope: Scope | None, *, always_answered: bool = False) -> Endpoint:
    return Endpoint(path, scope, path, always_answered)


def _docs(path: str) -> Endpoint:
    return Endpoint(path, None, path if path == "/docs" else OTHER_LABEL)


def _v2(path: str, scope: Scope | None, *, always_answered: bool = False) -> Endpoint:
    label = OPEN_INFERENCE_PREFIX
    return Endpoint(OPEN_INFERENCE_PREFIX + path, scope, label, always_answered)


def _grpc(path: str, scope: Scope | None) -> Endpoint:
    return Endpoint(path, scope, GRPC_LABEL)


# Health is open, since probes carry no key; so are the page and the documentation, which hold
# nothing secret.
ENDPOINTS = (
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
    Endpoint("/page/{name}", None, "/"),
    Endpoint("/model/files/{digest}/{name}", "act", "/model"),
    _rest("/openapi.json", None),
    _docs("/docs"),
    _docs("/docs/swagger-ui-bundle.js"),
    _docs("/docs/swagger-ui.css"),
    _docs("/docs/favicon.png"),
    _v2("", "act"),
    _v2("/health/live", None, always_answered=True),
    _v2("/health/ready", None, always_answered=True),
    _v2("/models", "act"),
    _v2("/models/stats", "act"),
    _v2("/models/{name}", "act"),
    _v2("/models/{name}/config", "act"),
    _v2("/models/{name}/infer", "act"),
    _v2("/models/{name}/ready", None),
    _v2("/models/{name}/stats", "act"),
    _v2("/models/{name}/versions/{version}", "act"),
    _v2("/models/{name}/versions/{version}/config", "act"),
    _v2("/models/{name}/versions/{version}/infer", "act"),
    _v2("/models/{name}/versions/{version}/ready", None),
    _v2("/models/{name}/versions/{version}/stats", "act"),
    _v2("/repository/index", "act"),
    _v2("/repository/models/{name}/load", "admin"),
    _v2("/repository/models/{name}/unload", "admin"),
    _grpc(f"{INFERENCE_SERVICE}/ServerLive", None),
    _grpc(f"{INFERENCE_SERVICE}/ServerReady", None),
    _grpc(f"{INFERENCE_SERVICE}/ModelReady", None),
    _grpc(f"{INFERENCE_SERVICE}/ServerMetadata", "act"),
    _grpc(f"{INFERENCE_SERVICE}/ModelMetadata", "act"),
    _grpc(f"{INFERENCE_SERVICE}/ModelConfig", "act"),
    _grpc(f"{INFERENCE_SERVICE}/ModelStatistics", "act"),
    _grpc(f"{INFERENCE_SERVICE}/ModelInfer", "act"),
    _grpc(f"{INFERENCE_SERVICE}/ModelStreamInfer", "act"),
    _grpc(f"{INFERENCE_SERVICE}/RepositoryIndex", "act"),
    _grpc(f"{INFERENCE_SERVICE}/RepositoryModelLoad", "admin"),
    _grpc(f"{INFERENCE_SERVICE}/RepositoryModelUnload", "admin"),
    _grpc("/grpc.health.v1.Health/Check", None),
    _grpc("/grpc.health.v1.Health/List", None),
    _grpc("/grpc.health.v1.Health/Watch", None),
    _grpc("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", None),
)
LABELS = tuple(dict.fromkeys([*(endpoint.label for endpoint in ENDPOINTS), OTHER_LABEL]))

_BY_PATH = {endpoint.path: endpoint for endpoint in ENDPOINTS}
_BY_LENGTH: dict[int, list[tuple[list[str], Endpoint]]] = {}  # those with parameters, by parts
for _endpoint in ENDPOINTS:
    if "{" in _endpoint.path:
        _parts = _endpoint.path.split("/")
        _BY_LENGTH.setdefault(len(_parts), []).append((_parts, _endpoint))


def find_endpoint(path: str) -> Endpoint | None:
    """Return the endpoint at a request's path, or None where there is none.

    The path is compared as it is: with one slash more, or a line end behind it, it is another path.
    """
    endpoint = _BY_PATH.get(path)
    if endpoint is not None:
        return endpoint

    parts = path.split("/")
    for pattern, endpoint in _BY_LENGTH.get(len(parts), ()):
        if _matches(pattern, parts):
            return endpoint
    return None


def _matches(pattern: list[str], parts: list[str]) -> bool:
    """Return whether the parts of a path are those of a pattern; a parameter is any text."""
    for expected, part in zip(pattern, parts, strict=True):
        is_match = part != "" if expected.startswith("{") else part == expected
        if not is_match:
            return False
    return True


def endpoint_of(path: str) -> Endpoint:
    """Return the endpoint at a request's path; where there is none, one that only `admin` opens."""
    endpoint = find_endpoint(path)
    if endpoint is not None:
        return endpoint

    is_open_inference = path.startswith(f"{OPEN_INFERENCE_PREFIX}/")
    return Endpoint(path, "admin", OPEN_INFERENCE_PREFIX if is_open_inference else OTHER_LABEL)
