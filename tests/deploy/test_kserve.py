"""What ships for KServe has the fields that KServe 0.21 knows, and starts the service rightly."""

import copy

import pytest

from service.settings import KSERVE_NAME
from tests.deploy.checks import problems
from tests.deploy.kserve_models import kserve_problems
from tests.deploy.objects import Object, objects_in
from tests.deploy.schemas import kubernetes_problems, type_problems
from tests.deploy.service_code import code_problems, pod_problems, settings_of
from tests.support.project import ROOT

FOLDER = ROOT / "deploy" / "kserve"
SERVICES = sorted(path.stem for path in FOLDER.glob("inferenceservice-*.yaml"))
CONTAINER = "kserve-container"


def read(name: str) -> list[Object]:
    return objects_in((FOLDER / f"{name}.yaml").read_text())


def one(name: str, kind: str = "InferenceService") -> Object:
    (value,) = [value for value in read(name) if value["kind"] == kind]
    return value


def runtime() -> Object:
    return one("servingruntime", "ServingRuntime")


def pod_of(serving_runtime: Object, service: Object) -> Object:
    """Return the pod that KServe makes of both, in what matters to the service.

    Lists of arguments are joined, what the model names comes beside what the runtime has, and a
    bundle is mounted by the storage initializer or by Kubernetes.
    """
    spec, predictor = copy.deepcopy(serving_runtime["spec"]), service["spec"]["predictor"]
    model = predictor["model"]
    (container,) = [each for each in spec["containers"] if each["name"] == CONTAINER]
    container["args"] += model.get("args", [])
    names = {"http1": "http", "h2c": "grpc"}
    default = [{"name": "http1", "containerPort": 8080}, {"name": "h2c", "containerPort": 9000}]
    container["ports"] = [
        port | {"name": names[port["name"]]} for port in model.get("ports", default)
    ]
    places = [each["mountPath"] for each in predictor.get("storageUris", [])] or ["/mnt/models"]
    for number, place in enumerate(places):
        container["volumeMounts"].append({"name": f"bundle-{number}", "mountPath": place})
        spec["volumes"].append({"name": f"bundle-{number}"})
    pod: Object = predictor | spec
    return pod


def test_kserves_models_know_each_field() -> None:
    objects = [value for path in FOLDER.glob("*.yaml") for value in objects_in(path.read_text())]
    assert len(SERVICES) == 7
    assert list(kserve_problems(objects)) == []
    assert list(kubernetes_problems(objects)) == []
    assert type_problems(objects) == []


def test_both_runtimes_are_the_same() -> None:
    assert one("clusterservingruntime", "ClusterServingRuntime") == runtime() | {
        "kind": "ClusterServingRuntime"
    }


@pytest.mark.parametrize("name", SERVICES)
def test_the_service_starts_as_the_runtime_and_the_inference_service_say(
    name: str, exposed_metrics: set[str]
) -> None:
    service = one(name)
    assert list(code_problems([runtime(), service], exposed_metrics)) == []
    assert list(pod_problems(pod_of(runtime(), service), CONTAINER)) == []
    for canary in service["spec"].get("canary", []):
        assert list(pod_problems(pod_of(runtime(), {"spec": canary}), CONTAINER)) == []


def test_callers_name_the_model_as_the_inference_service(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(KSERVE_NAME, "cartpole")
    (container,) = runtime()["spec"]["containers"]
    settings = settings_of([*container["args"], "--watch=11"])  # not as asked without the variable
    assert not isinstance(settings, str)
    assert settings.model_name == ["cartpole"]


def test_pods_are_restricted_and_end_in_time() -> None:
    (container,) = runtime()["spec"]["containers"]
    context = container["securityContext"]
    assert context["runAsNonRoot"]
    assert context["readOnlyRootFilesystem"]
    assert not context["allowPrivilegeEscalation"]
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert "cpu" not in container["resources"]["limits"]
    for name in SERVICES:
        predictor = one(name)["spec"]["predictor"]
        assert predictor["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert predictor["deploymentStrategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_a_canarys_shares_and_its_route_agree() -> None:
    (canary,) = one("inferenceservice-canary")["spec"]["canary"]
    (route,) = read("canary-route")
    for rule in route["spec"]["rules"]:
        weights = {each["name"]: each.get("weight") for each in rule["backendRefs"]}
        if "headers" not in rule["matches"][0]:
            assert weights["cartpole-next-predictor"] == canary["trafficPercent"]
        is_stream = rule["matches"][0]["path"]["value"] == "/act/stream"
        assert (rule["timeouts"]["request"] == "0s") == is_stream


RUNTIME, SERVICE = "servingruntime", "inferenceservice-keda"
MISTAKES = {
    "a field of the runtime misspelt": (
        "has no field supportedModelFormat", RUNTIME,
        "supportedModelFormats:", "supportedModelFormat:",
    ),
    "a field of its container misspelt": (
        "'volumeMount' was unexpected", RUNTIME, "volumeMounts:", "volumeMount:"
    ),
    "a field of the predictor misspelt": (
        "has no field minReplica", SERVICE, "minReplicas:", "minReplica:"
    ),
    "a number as a text": ("'2' is no int", SERVICE, "minReplicas: 2", 'minReplicas: "2"'),
    "a pod's field in the runtime": (
        "has no field terminationGracePeriodSeconds", RUNTIME,
        "  volumes:\n", "  terminationGracePeriodSeconds: 30\n  volumes:\n",
    ),
    "a format that the runtime has not": (
        "serves no sklearn", SERVICE, "{name: upright,", "{name: sklearn,"
    ),
    "a protocol that the service does not speak": (
        "speaks no v1", SERVICE, "protocolVersion: v2", "protocolVersion: v1"
    ),
    "a runtime that is not there": (
        "no runtime upright-2", SERVICE, "runtime: upright", "runtime: upright-2"
    ),
    "a metric misspelt": (
        "upright_states_total is a metric that", SERVICE,
        "upright_actions_total", "upright_states_total",
    ),
    "a flag misspelt": ("--bundel", RUNTIME, "--bundle=", "--bundel="),
    "another port": ("are not 8081", RUNTIME, "--port=8080", "--port=8081"),
    "a bundle that nothing mounts": (
        "--bundle /mnt/bundle lies in no volume", RUNTIME, "/mnt/models", "/mnt/bundle"
    ),
    "a probe of an endpoint that is not there": (
        "/v2/healthz", RUNTIME, "/v2/health/live", "/v2/healthz"
    ),
    "a drain longer than the grace": (
        "is shorter than a drain", RUNTIME, "--drain=10", "--drain=60"
    ),
}  # fmt: skip


@pytest.mark.parametrize("title", MISTAKES)
def test_each_mistake_is_named(title: str, exposed_metrics: set[str]) -> None:
    complaint, name, right, wrong = MISTAKES[title]
    texts = {each: (FOLDER / f"{each}.yaml").read_text() for each in (RUNTIME, SERVICE)}
    assert right in texts[name]
    texts[name] = texts[name].replace(right, wrong)
    objects = objects_in("---\n".join(texts.values()))
    found = problems(objects, exposed_metrics) or list(pod_problems(pod_of(*objects), CONTAINER))
    assert any(complaint in problem for problem in found), found
