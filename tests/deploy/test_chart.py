"""The chart is valid in every shape that its values give it, and fits the service."""

import json
import re
import subprocess
from typing import Any

import pytest
import yaml

from tests.deploy.checks import problems
from tests.deploy.objects import CHART, KUBERNETES, Object, name_of, render
from tests.deploy.schemas import kubernetes_problems, type_problems
from tests.deploy.service_code import code_problems, dockerfile_user, settings_of
from tests.support import chart_schema
from tests.support.deploy_tools import run, tool
from tests.support.project import ROOT

GATEWAY = {"enabled": True, "parentRefs": [{"name": "gateway"}], "hostnames": ["upright.example"]}
DIGEST = "sha256:" + "0" * 64
MATRIX: dict[str, Object] = {
    "as it is": {},
    "all that others bring": {
        "autoscaling": {"kind": "keda", "keda": {"serverAddress": "http://prometheus:9090"}},
        "serviceMonitor": {"enabled": True, "labels": {"release": "monitoring"}},
        "prometheusRule": {"enabled": True},
        "dashboard": {"enabled": True},
        "httpRoute": GATEWAY,
        "grpcRoute": GATEWAY,
        "service": {"headless": True, "annotations": {"example.org/team": "control"}},
    },
    "a canary by image": {
        "canary": {"enabled": True, "image": {"tag": "0.2.0"}, "replicas": 2},
        "image": {"digest": DIGEST},
        "httpRoute": GATEWAY,
        "grpcRoute": GATEWAY,
        "serviceMonitor": {"enabled": True},
    },
    "a canary by bundle": {
        "canary": {"enabled": True, "bundle": {"source": "configMap", "configMap": "next"}},
        "httpRoute": GATEWAY,
    },
    "HPA": {"autoscaling": {"kind": "hpa"}},
    "bundle from a ConfigMap": {"bundle": {"source": "configMap", "configMap": "cartpole-dqn"}},
    "bundle from an image": {
        "bundle": {
            "source": "imageVolume",
            "path": "models",
            "imageVolume": {"reference": f"registry.example/bundle@{DIGEST}"},
        }
    },
    "bundle and shadow from claims": {
        "bundle": {"source": "claim", "claim": "bundles", "path": "cartpole/7"},
        "shadow": {"source": "claim", "claim": "bundles", "path": "cartpole/8"},
        "settings": {"shadow-margin": 0.5},
    },
    "a signed bundle": {
        "bundle": {
            "source": "claim",
            "claim": "bundles",
            "verifyKey": {"secretName": "signer"},
        }
    },
    "bundle from a URL": {
        "bundle": {
            "source": "url",
            "url": {"address": "https://models.example/cartpole.tar.gz", "sha256": "0" * 64},
        }
    },
    "keys and TLS": {
        "keys": {"secretName": "upright-keys"},
        "tls": {"secretName": "upright-tls"},
        "serviceMonitor": {
            "enabled": True,
            "tlsConfig": {"insecureSkipVerify": True},
            "credentials": {"secretName": "upright-scrape"},
        },
    },
    "client certificates": {
        "tls": {"secretName": "upright-tls", "clientCa": {"secretName": "callers"}},
    },
    "OpenShift": {
        "podSecurityContext": {"runAsUser": None, "runAsGroup": None, "fsGroup": None},
    },
    "no gRPC, several processes": {
        "grpc": {"enabled": False},
        "settings": {"workers": 4, "drain": 0.5, "max-body": 2_000_000, "log-requests": True},
        "resources": {"requests": {"cpu": "4", "memory": "768Mi"}, "limits": {"memory": "1Gi"}},
    },
    "narrow": {
        "networkPolicy": {
            "from": [{"namespaceSelector": {"matchLabels": {"name": "loops"}}}],
            "egress": [
                {
                    "to": [{"podSelector": {"matchLabels": {"app": "collector"}}}],
                    "ports": [{"protocol": "TCP", "port": 4318}],
                }
            ],
        },
        "settings": {"tracing": True, "cors-origin": ["https://loops.example"]},
        "env": [{"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "http://collector:4318"}],
        "nodeSelector": {"kubernetes.io/arch": "arm64"},
        "tolerations": [{"key": "control", "operator": "Exists", "effect": "NoSchedule"}],
        "affinity": {"podAntiAffinity": {}},
        "priorityClassName": "control-loops",
        "podLabels": {"team": "control"},
        "podAnnotations": {"example.org/a": "b"},
        "imagePullSecrets": [{"name": "registry"}],
        "extraVolumes": [{"name": "record", "emptyDir": {}}],
        "extraVolumeMounts": [{"name": "record", "mountPath": "/record"}],
    },
    "little": {
        "pdb": {"enabled": False},
        "networkPolicy": {"enabled": False},
        "serviceAccount": {"create": False},
        "ports": {"http": 8080, "grpc": 9001},
        "host": "::",
        "service": {"port": 8080, "grpcPort": 8081},
        "fullnameOverride": "pole",
        "nameOverride": "policy",
    },
}


@pytest.fixture(scope="module")
def rendered() -> dict[str, list[Object]]:
    return {title: render(values) for title, values in MATRIX.items()}


def objects_of(rendered: list[Object], kind: str) -> list[Object]:
    return [value for value in rendered if value["kind"] == kind]


def test_helm_finds_nothing_to_complain_of() -> None:
    assert "0 chart(s) failed" in run(tool("helm"), "lint", "--strict", CHART)


def test_each_object_is_valid_in_the_oldest_and_the_newest_kubernetes(
    rendered: dict[str, list[Object]],
) -> None:
    different = {json.dumps(value): value for objects in rendered.values() for value in objects}
    assert len(different) > 40
    assert list(kubernetes_problems(different.values())) == []


def test_the_oldest_kubernetes_is_the_one_that_the_chart_names() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["kubeVersion"] == f">={KUBERNETES[0]}.0-0"
    render({}, version=KUBERNETES[0])
    with pytest.raises(subprocess.CalledProcessError, match="non-zero"):
        render({}, version="1.30")


def test_what_others_define_is_valid_by_their_types(rendered: dict[str, list[Object]]) -> None:
    everything = [value for objects in rendered.values() for value in objects]
    assert {value["kind"] for value in everything} >= {
        "HTTPRoute", "GRPCRoute", "ScaledObject", "ServiceMonitor", "PrometheusRule"
    }  # fmt: skip
    assert type_problems(everything) == []


def test_ports_paths_users_flags_and_metrics_are_the_services_own(
    rendered: dict[str, list[Object]], exposed_metrics: set[str]
) -> None:
    for title, objects in rendered.items():
        assert (title, list(code_problems(objects, exposed_metrics))) == (title, [])


def test_the_schema_knows_each_setting_as_the_service_does() -> None:
    assert chart_schema.FILE.read_text() == chart_schema.document(), "run make settings"


def test_the_schema_knows_each_value_and_no_other() -> None:
    def names(schema: Object, place: str = "") -> set[str]:
        if "$ref" in schema:
            schema = schema | document["$defs"][schema["$ref"].rpartition("/")[2]]
        if not schema.get("properties") or place in ("settings", "canary.bundle"):
            return {place}
        return {
            name
            for key, inner in schema["properties"].items()
            for name in names(inner, f"{place}.{key}".removeprefix("."))
        }

    def given(value: Any, schema_names: set[str], place: str = "") -> set[str]:
        if place in schema_names or not isinstance(value, dict):
            return {place}
        return {
            name
            for key, inner in value.items()
            for name in given(inner, schema_names, f"{place}.{key}".removeprefix("."))
        }

    document = json.loads(chart_schema.FILE.read_text())
    known = names(document) - {"global"}
    assert given(yaml.safe_load((CHART / "values.yaml").read_text()), known) == known


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"grpc": {"enabled": True}, "settings": {"workers": 2}}, "one process alone"),
        ({"tls": {"clientCa": {"secretName": "callers"}}}, "needs tls.secretName"),
        ({"autoscaling": {"kind": "keda"}}, "keda.serverAddress"),
        ({"httpRoute": {"enabled": True}}, "httpRoute.parentRefs"),
        ({"grpcRoute": GATEWAY, "grpc": {"enabled": False}}, "needs grpc.enabled"),
        ({"bundle": {"source": "configMap"}}, "bundle.configMap"),
        ({"bundle": {"source": "url"}}, "bundle.url.address"),
        ({"serviceMonitor": {"enabled": True}, "keys": {"secretName": "k"}}, "scope metrics"),
    ],
)
def test_values_that_do_not_go_together_are_refused_by_name(values: Object, complaint: str) -> None:
    with pytest.raises(subprocess.CalledProcessError) as error:
        render(values)
    assert complaint in error.value.stderr


def test_each_kind_of_change_comes_without_a_gap(rendered: dict[str, list[Object]]) -> None:
    for deployment in objects_of(rendered["a canary by image"], "Deployment"):
        spec = deployment["spec"]
        assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
        container = spec["template"]["spec"]["containers"][0]
        out, dead = (
            container[probe]["periodSeconds"] * container[probe]["failureThreshold"]
            for probe in ("readinessProbe", "livenessProbe")
        )
        assert out * 2 < dead
        # A pod stays in its Services for a while after it was told to stop, so it goes on serving.
        settings = settings_of(container["args"])
        assert not isinstance(settings, str)
        assert settings.drain >= 10


def test_no_pod_has_a_cpu_limit_and_each_has_the_rest_of_the_restricted_rules(
    rendered: dict[str, list[Object]],
) -> None:
    for title, objects in rendered.items():
        for value in objects:
            if value["kind"] not in ("Deployment", "Pod"):
                continue
            pod = (
                value["spec"]["template"]["spec"] if "template" in value["spec"] else value["spec"]
            )
            assert pod["securityContext"]["runAsNonRoot"], title
            assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
            assert not pod["automountServiceAccountToken"]
            for container in pod["containers"] + pod.get("initContainers", []):
                assert container["securityContext"] == {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                }
                assert "cpu" not in container["resources"]["limits"]
                assert "memory" in container["resources"]["limits"]


def test_on_openshift_the_cluster_gives_the_ids(rendered: dict[str, list[Object]]) -> None:
    (deployment,) = objects_of(rendered["OpenShift"], "Deployment")
    context = deployment["spec"]["template"]["spec"]["securityContext"]
    assert context == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    (deployment,) = objects_of(rendered["as it is"], "Deployment")
    context = deployment["spec"]["template"]["spec"]["securityContext"]
    assert context["runAsUser"] == dockerfile_user()


def test_rules_and_dashboard_are_those_of_the_folders_beside_the_chart(
    rendered: dict[str, list[Object]],
) -> None:
    objects = rendered["all that others bring"]
    (rule,) = objects_of(objects, "PrometheusRule")
    assert rule["spec"] == yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())
    (dashboard,) = objects_of(objects, "ConfigMap")
    own = json.loads((ROOT / "deploy/grafana/upright.json").read_text())
    assert json.loads(dashboard["data"]["upright.json"]) == own


def test_a_canary_gets_its_share_and_whoever_asks_for_it(
    rendered: dict[str, list[Object]],
) -> None:
    objects = rendered["a canary by image"]
    stable, canary = objects_of(objects, "Deployment")
    assert stable["spec"]["template"]["spec"]["containers"][0]["image"] == f"upright@{DIGEST}"
    assert canary["spec"]["template"]["spec"]["containers"][0]["image"] == "upright:0.2.0"
    for kind in ("HTTPRoute", "GRPCRoute"):
        (route,) = objects_of(objects, kind)
        for rule in route["spec"]["rules"]:
            weights = {backend["name"]: backend.get("weight") for backend in rule["backendRefs"]}
            if "headers" in rule["matches"][0]:
                assert weights == {"demo-upright-canary": None}
            else:
                assert weights == {"demo-upright": 90, "demo-upright-canary": 10}


def test_the_packaged_chart_renders_the_same(tmp_path: Any) -> None:
    run(tool("helm"), "package", CHART, "--destination", tmp_path)
    (package,) = tmp_path.iterdir()
    values = MATRIX["all that others bring"]
    assert render(values, package) == render(values)


def test_the_notes_lead_to_an_answer() -> None:
    arguments = ("--dry-run=client", "--namespace", "control", "--values", "-")
    values = json.dumps({"keys": {"secretName": "k"}, "tls": {"secretName": "t"}})
    plain, guarded = (
        run(tool("helm"), "install", "demo", CHART, *arguments, given=given).partition("NOTES:")[2]
        for given in ("{}", values)
    )
    assert "port-forward service/demo-upright 8000:80" in plain
    assert """curl -d '{"state":[0,0,0.05,0]}' http://127.0.0.1:8000/act""" in plain
    assert "curl --insecure" in guarded
    assert "Authorization: Bearer" in guarded


def test_the_values_that_the_page_names_are_the_charts() -> None:
    page = (ROOT / "docs" / "kubernetes.md").read_text()
    named = re.findall(r"--set ([\w.-]+=[\w./-]+)", page)
    assert len(named) > 7
    arguments = [argument for value in named for argument in ("--set", value)]
    text = run(tool("helm"), "template", "demo", CHART, *arguments)
    assert {value["metadata"]["name"] for value in yaml.safe_load_all(text)} >= {
        "demo-upright",
        "demo-upright-canary",
    }
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    for name in re.findall(r"`([a-z][A-Za-z]*(?:\.[A-Za-z-]+)+)[=`]", page):
        place = values
        for key in name.split("."):
            if name.startswith(("settings.", "values.")) or place == {}:  # the schema knows these
                break
            assert key in place, name
            place = place[key]


def test_kubectl_reads_what_helm_writes(tmp_path: Any) -> None:
    text = run(tool("helm"), "template", "demo", CHART)
    (tmp_path / "all.yaml").write_text(text)
    (tmp_path / "kustomization.yaml").write_text("resources: [all.yaml]\n")
    built = run(tool("kubectl"), "kustomize", tmp_path)
    assert sorted(re.findall(r"^kind: (\w+)$", built, re.MULTILINE)) == sorted(
        value["kind"] for value in yaml.safe_load_all(text) if value
    )


def test_all_checks_together_find_nothing(
    rendered: dict[str, list[Object]], exposed_metrics: set[str]
) -> None:
    objects = rendered["all that others bring"]
    assert [name_of(value) for value in objects].count("ScaledObject/demo-upright") == 1
    assert problems(objects, exposed_metrics) == []
