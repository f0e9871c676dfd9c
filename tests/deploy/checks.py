"""What manifests are held to: the schemas of Kubernetes and of others, and the service's own code.

Each check takes objects and returns a line for each thing that is wrong, so that a test can plant a
mistake and see it named.
"""

import json
import re
import subprocess
import sys
import types
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import kubernetes_validate
import yaml
from kubernetes_validate import utils

from service.commands.command_line import UsageError, parse_settings
from service.endpoints import ENDPOINTS, find_endpoint
from service.settings import Settings, flag
from tests.support.deploy_tools import PYTHON_FOLDER, run, tool
from tests.support.programs import node
from tests.support.project import ROOT

Object = dict[str, Any]

# Schemas are read anew for each object, which takes nearly all of the time.
utils.schema_contents = cache(utils.schema_contents)
_valid: set[str] = set()  # objects of others in which nothing was wrong

# The oldest version that Chart.yaml allows, and the newest one there is.
KUBERNETES = ("1.31", "1.37")
GROUPS_OF_TYPES = {
    "gateway.networking.k8s.io": "gateway-api",
    "keda.sh": "keda",
    "monitoring.coreos.com": "prometheus-operator",
}
KSERVE = "serving.kserve.io"
CHART = ROOT / "deploy" / "helm" / "upright"


def objects_in(text: str) -> list[Object]:
    return [document for document in yaml.load_all(text, yaml.CSafeLoader) if document]


def render(values: Object, chart: Path = CHART, *, version: str = KUBERNETES[1]) -> list[Object]:
    """Return the chart's objects. Raises `CalledProcessError`, whose stderr says what is wrong."""
    arguments = ("--namespace", "control", "--kube-version", version, "--values", "-")
    text = run(tool("helm"), "template", "demo", chart, *arguments, given=json.dumps(values))
    return objects_in(text)


def name_of(value: Object) -> str:
    return f"{value['kind']}/{value['metadata']['name']}"


def group_of(value: Object) -> str:
    group: str = value["apiVersion"].rpartition("/")[0]
    return group


def problems(objects: Sequence[Object], metrics: set[str]) -> list[str]:
    """Return what is wrong with some objects: by the schemas, and if nothing is, by the code."""
    by_schema = [
        *kubernetes_problems(objects),
        *type_problems(objects),
        *kserve_problems(objects),
    ]
    return by_schema or list(code_problems(objects, metrics))


# The schemas of Kubernetes.


def kubernetes_problems(objects: Iterable[Object]) -> Iterator[str]:
    """Give what kubernetes-validate finds, in each version.

    A kind that it does not know is a problem as well, unless another check here knows it.
    """
    for value in objects:
        if group_of(value) not in (*GROUPS_OF_TYPES, KSERVE):
            for version in KUBERNETES:
                if problem := _kubernetes_problem(json.dumps(value), version):
                    yield f"{name_of(value)} in Kubernetes {version}: {problem}"


@cache
def _kubernetes_problem(text: str, version: str) -> str:
    try:
        used = kubernetes_validate.validate(json.loads(text), version, strict=True)
    except utils.ValidationError as error:
        return f"{'.'.join(map(str, error.absolute_path))}: {error.message}"
    except utils.SchemaNotFoundError as error:
        return str(error.message)
    return "" if used == version else f"there are schemas up to {used} only"


# The types of others.


def type_problems(objects: Sequence[Object]) -> list[str]:
    """Return what the types of Gateway API, KEDA and the Prometheus operator refuse.

    The compiler finds fields that the types do not have, the schemas values that are none.
    """
    others = [
        value
        for value in objects
        if group_of(value) in GROUPS_OF_TYPES and json.dumps(value) not in _valid
    ]
    if not others:
        return []

    folder = tool("node_modules").parent
    result = run(
        node(), ROOT / "tests/deploy/validate.mjs", folder, given=json.dumps(others)
    ).splitlines()
    with TemporaryDirectory(dir=folder) as own:
        result += _compile(Path(own), others)
    if not result:
        _valid.update(map(json.dumps, others))
    return result


def _compile(folder: Path, objects: Sequence[Object]) -> list[str]:
    lines = []
    for number, value in enumerate(objects):
        package = GROUPS_OF_TYPES[group_of(value)]
        module = f"@kubernetes-models/{package}/{value['apiVersion']}/{value['kind']}"
        lines += [
            f'import type {{ I{value["kind"]} as Type{number} }} from "{module}";',
            f"const object{number}: Type{number} = {json.dumps(value)};",
        ]
    (folder / "objects.ts").write_text("\n".join(lines))
    options = {
        "noEmit": True, "strict": True, "skipLibCheck": True,
        "module": "nodenext", "target": "es2022", "types": [],
    }  # fmt: skip
    (folder / "tsconfig.json").write_text(
        json.dumps({"compilerOptions": options, "files": ["objects.ts"]})
    )
    compiler = folder.parent / "node_modules/typescript/bin/tsc"
    result = subprocess.run(
        [node(), compiler, "--project", folder, "--pretty", "false"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    output = result.stdout + result.stderr
    assert result.returncode == 0 or output, "the compiler failed, and said nothing"
    return [
        re.sub(
            r"^.*objects\.ts\((\d+),\d+\)",
            lambda line: name_of(objects[(int(line[1]) - 1) // 2]),
            text,
        )
        for text in output.splitlines()
    ]


# KServe's own models.


@cache
def _kserve_models() -> types.ModuleType:
    """Import KServe's models, without the server that its package would start from."""
    sys.path.insert(0, str(tool("python")))
    package = types.ModuleType("kserve")
    package.__path__ = [str(PYTHON_FOLDER / "kserve")]
    configuration = types.ModuleType("kserve.configuration")
    configuration.Configuration = None  # type: ignore[attr-defined] # named, and not used
    six = types.ModuleType("six")
    replaced = {"kserve": package, "kserve.configuration": configuration, "six": six}
    before = {name: sys.modules.get(name) for name in replaced}
    sys.modules |= replaced
    try:
        return import_module("kserve.models")
    finally:
        sys.path.remove(str(PYTHON_FOLDER))
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


@cache
def _core_definitions() -> dict[str, Any]:
    content: dict[str, Any] = utils.schema_contents(
        f"kubernetes-json-schema/v{KUBERNETES[1]}.0-local-strict/_definitions.json", KUBERNETES[1]
    )
    return content["$defs"]  # type: ignore[no-any-return] # it is JSON


def kserve_problems(objects: Iterable[Object]) -> Iterator[str]:
    """Give the fields of KServe's objects that its models, or Kubernetes' inside them, have not."""
    for value in objects:
        if group_of(value) == KSERVE:
            version = value["apiVersion"].rpartition("/")[2].capitalize()
            for problem in _kserve_problems(value, f"{version}{value['kind']}", ""):
                yield f"{name_of(value)}: {problem}"


def _kserve_problems(value: Any, type_name: str, place: str) -> Iterator[str]:
    if inner := re.fullmatch(r"list\[(.*)\]", type_name, re.IGNORECASE):
        if not isinstance(value, list):
            yield f"{place}: is no list"
            return
        for number, item in enumerate(value):
            yield from _kserve_problems(item, inner[1], f"{place}[{number}]")
    elif inner := re.fullmatch(r"dict\(str, (.*)\)", type_name):
        if not isinstance(value, dict):
            yield f"{place}: is no mapping"
            return
        for name, item in value.items():
            yield from _kserve_problems(item, inner[1], f"{place}.{name}")
    elif model := getattr(_kserve_models(), type_name, None):
        yield from _model_problems(value, model, place)
    elif type_name in _PLAIN_TYPES:
        if type(value) is not _PLAIN_TYPES[type_name]:
            yield f"{place}: {value!r} is no {type_name}"
    elif type_name != "object":
        yield from _core_problems(value, type_name, place)


_PLAIN_TYPES = {
    "str": str, "int": int, "bool": bool, "float": float,
    "V1beta1MetricQuantity": str,  # a model that KServe's package lacks
}  # fmt: skip


def _model_problems(value: Any, model: Any, place: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{place}: is no object"
        return
    types_of = {
        name: model.openapi_types[attribute] for attribute, name in model.attribute_map.items()
    }
    for name, item in value.items():
        if name in types_of:
            yield from _kserve_problems(item, types_of[name], f"{place}.{name}")
        else:
            yield f"{place}: {model.__name__} has no field {name}"


def _core_problems(value: Any, type_name: str, place: str) -> Iterator[str]:
    """Hold a part to Kubernetes' own definition of a type, such as V1Container."""
    import jsonschema

    definitions = _core_definitions()
    end = type_name.removeprefix("K8sIo").lower()  # such as v1container
    (name,) = [name for name in definitions if name.replace(".", "").lower().endswith(end)]
    schema = {"$ref": f"#/$defs/{name}", "$defs": definitions}
    for error in jsonschema.Draft202012Validator(schema).iter_errors(value):
        inner = "".join(f".{part}" for part in error.absolute_path)
        yield f"{place}{inner}: {error.message}"


# The service's own code.


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
