"""Objects against each other, and against the service's own code.

Ports, paths, flags, files, metrics and the user that they name are those of the service.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

from service.commands.command_line import UsageError, parse_settings
from service.endpoints import ENDPOINTS, find_endpoint
from service.settings import Settings, flag
from tests.deploy.objects import Object, name_of
from tests.support.project import ROOT


def code_problems(objects: Sequence[Object], metrics: set[str]) -> Iterator[str]:
    """Give where objects disagree with each other or with the service.

    `metrics` holds the names that the service exposes.
    """
    for value in objects:
        for problem in _object_problems(value, objects, metrics):
            yield f"{name_of(value)}: {problem}"


def _object_problems(value: Object, objects: Sequence[Object], metrics: set[str]) -> Iterator[str]:
    match value["kind"]:
        case "InferenceService":
            yield from _model_format_problems(value, objects)
        case "Deployment":
            yield from pod_problems(value["spec"]["template"]["spec"])
        case "Pod":
            yield from _security_problems(value["spec"])
        case "Service":
            yield from _service_problems(value, objects)
        case "ServiceMonitor":
            for endpoint in value["spec"]["endpoints"]:
                found = find_endpoint(endpoint["path"])
                if found is None or found.scope != "metrics":
                    yield f"{endpoint['path']} is no endpoint of metrics"
                if endpoint["port"] not in _port_names(objects):
                    yield f"no Service has a port named {endpoint['port']}"
        case "PodDisruptionBudget":
            yield from _budget_problems(value, objects)
        case "NetworkPolicy":
            for rule in value["spec"]["ingress"]:
                names = {port["port"] for port in rule["ports"]}
                if unknown := names - _pod_port_names(objects):
                    yield f"no pod has a port named {unknown}"
        case "HTTPRoute" | "GRPCRoute":
            yield from _route_problems(value, objects)
        case "HorizontalPodAutoscaler" | "ScaledObject":
            target = value["spec"]["scaleTargetRef"]["name"]
            deployments = {
                other["metadata"]["name"]: other["spec"]
                for other in objects
                if other["kind"] == "Deployment"
            }
            if target not in deployments:
                yield f"there is no Deployment {target}"
            elif "replicas" in deployments[target]:
                yield f"the Deployment {target} has replicas of its own"
    yield from metric_problems(json.dumps(value), metrics)


def _model_format_problems(value: Object, objects: Sequence[Object]) -> Iterator[str]:
    """Give what an InferenceService asks of its runtime that the runtime does not offer."""
    model = value["spec"]["predictor"]["model"]
    runtimes = [
        other["spec"]
        for other in objects
        if other["kind"] == "ServingRuntime" and other["metadata"]["name"] == model["runtime"]
    ]
    if not runtimes:
        yield f"there is no runtime {model['runtime']}"
        return
    formats = {each["name"] for each in runtimes[0]["supportedModelFormats"]}
    if model["modelFormat"]["name"] not in formats:
        yield f"the runtime serves no {model['modelFormat']['name']}"
    if model["protocolVersion"] not in runtimes[0]["protocolVersions"]:
        yield f"the runtime speaks no {model['protocolVersion']}"


def metric_problems(text: str, metrics: set[str]) -> Iterator[str]:
    """Give the names of metrics in a text that the service does not expose."""
    for name in sorted(set(re.findall(r"\b(?:upright|process)_[a-z_]+(?=\{|\[|\))", text))):
        if name not in metrics:
            yield f"{name} is a metric that the service does not expose"


def dockerfile_user() -> int:
    """Return the uid that the image runs by."""
    match = re.search(r"^USER (\d+):(\d+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert match is not None
    return int(match[1])


def settings_of(arguments: Sequence[str]) -> Settings | str:
    """Return what the service makes of a pod's arguments, or its complaint."""
    return _settings_of(tuple(arguments))


@cache
def _settings_of(arguments: tuple[str, ...]) -> Settings | str:
    try:
        return parse_settings(arguments)
    except UsageError as error:
        return str(error)


def pod_problems(pod: Object, container_name: str = "upright") -> Iterator[str]:
    """Give where a pod disagrees with the service that it starts."""
    yield from _security_problems(pod)
    (container,) = [
        container for container in pod["containers"] if container["name"] == container_name
    ]
    settings = settings_of(container["args"])
    if isinstance(settings, str):
        yield settings
        return

    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    if ports.get("http") != settings.port or ports.get("grpc") != settings.grpc_port:
        yield f"the ports {ports} are not {settings.port} and {settings.grpc_port}"
    grace = pod["terminationGracePeriodSeconds"]
    if grace < settings.drain + settings.shutdown + 5:
        yield f"a grace of {grace} s is shorter than a drain of {settings.drain} s and the end"
    if pod["enableServiceLinks"] is not False:
        yield "a Service named upright would set UPRIGHT_PORT"
    yield from _path_problems(container, pod["volumes"], settings)
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        yield from probe_problems(container[name], {*ports, *ports.values()})
    if container["readinessProbe"].get("httpGet", {}).get("path", "").endswith("/live"):
        yield "the readiness probe asks whether it is alive"


def probe_problems(probe: Object, ports: set[str | int]) -> Iterator[str]:
    """Give where a probe asks what the service does not answer without a key."""
    request: Object = probe.get("httpGet") or probe["tcpSocket"]
    if request["port"] not in ports:
        yield f"no port is named {request['port']}"
    if "path" in request:
        endpoint = find_endpoint(request["path"])
        if endpoint is None or endpoint.scope is not None or not endpoint.always_answered:
            yield f"a probe asks {request['path']}, which is no endpoint for probes"


def _path_problems(
    container: Object, volumes: Sequence[Object], settings: Settings
) -> Iterator[str]:
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    if missing := set(mounts.values()) - {volume["name"] for volume in volumes}:
        yield f"no volume is named {missing}"
    if unused := {volume["name"] for volume in volumes} - set(mounts.values()):
        yield f"nothing mounts the volumes {unused}"
    defaults = [field.default for field in Settings.model_fields.values()]
    for name in Settings.model_fields:
        path = getattr(settings, name)
        is_given = isinstance(path, Path) and path not in defaults
        if is_given and not any(path.is_relative_to(mount) for mount in mounts):
            yield f"{flag(name)} {path} lies in no volume"


def _security_problems(pod: Object) -> Iterator[str]:
    user = pod["securityContext"].get("runAsUser")
    if user is not None and user != dockerfile_user():
        yield f"the user {user} is not the image's, {dockerfile_user()}"


def _port_names(objects: Iterable[Object]) -> set[str]:
    return {
        port["name"]
        for value in objects
        if value["kind"] == "Service"
        for port in value["spec"]["ports"]
    }


def _pod_port_names(objects: Iterable[Object]) -> set[str]:
    return {
        port["name"]
        for value in objects
        if value["kind"] == "Deployment"
        for container in value["spec"]["template"]["spec"]["containers"]
        for port in container["ports"]
    }


def _service_problems(service: Object, objects: Sequence[Object]) -> Iterator[str]:
    selector = service["spec"]["selector"].items()
    selected = [
        value
        for value in objects
        if value["kind"] == "Deployment"
        and selector <= value["spec"]["template"]["metadata"]["labels"].items()
    ]
    if len(selected) != 1:
        yield f"selects {len(selected)} Deployments"
    names = _pod_port_names(selected)
    for port in service["spec"]["ports"]:
        if port["targetPort"] not in names:
            yield f"no pod has a port named {port['targetPort']}"
    if service["metadata"]["name"] == "upright":
        yield "its name would set UPRIGHT_PORT in other pods"


def _budget_problems(budget: Object, objects: Iterable[Object]) -> Iterator[str]:
    """Give the pods without a controller that a budget selects: it cannot count those."""
    selector = budget["spec"]["selector"]
    for value in objects:
        labels = value["metadata"].get("labels", {})
        is_selected = selector["matchLabels"].items() <= labels.items() and all(
            labels.get(each["key"]) in each["values"]
            for each in selector.get("matchExpressions", [])
        )
        if value["kind"] == "Pod" and is_selected:
            yield f"counts {name_of(value)}, which no controller keeps"


def _route_problems(route: Object, objects: Sequence[Object]) -> Iterator[str]:
    services = {
        value["metadata"]["name"]: {port["port"] for port in value["spec"]["ports"]}
        for value in objects
        if value["kind"] == "Service"
    }
    for rule in route["spec"]["rules"]:
        for backend in rule["backendRefs"]:
            if backend["port"] not in services.get(backend["name"], set()):
                yield f"no Service {backend['name']} has the port {backend['port']}"
        for match in rule["matches"]:
            if "path" in match:
                yield from _path_match_problems(match["path"]["value"], rule["timeouts"])
            else:
                prefix = f"/{match['method']['service']}/"
                if not any(endpoint.path.startswith(prefix) for endpoint in ENDPOINTS):
                    yield f"the service answers no calls of {match['method']['service']}"


def _path_match_problems(path: str, timeouts: Object) -> Iterator[str]:
    if path != "/" and find_endpoint(path) is None:
        yield f"{path} is no endpoint"
    if (path == "/act/stream") != (timeouts["request"] == "0s"):
        yield f"{path} has a time-out of {timeouts['request']}"
