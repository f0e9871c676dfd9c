"""The checks of the chart find what people get wrong: each planted mistake is named."""

import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.deploy.checks import problems
from tests.deploy.objects import CHART, Object, render
from tests.deploy.test_chart import MATRIX


@dataclass(frozen=True)
class Mistake:
    """One place of the chart, or one value, and what the complaint of it must say."""

    complaint: str
    file: str = ""
    right: str = ""
    wrong: str = ""
    values: Object = field(default_factory=dict)


HELPERS, MONITORING, ROUTES, SCALING, POLICY = (
    "templates/_helpers.tpl", "templates/monitoring.yaml", "templates/routes.yaml",
    "templates/autoscaling.yaml", "templates/networkpolicy.yaml",
)  # fmt: skip
MISTAKES = {
    "a value misspelt": Mistake("'replica' not allowed", values={"replica": 3}),
    "a value below another misspelt": Mistake(
        "'repositry' not allowed", values={"image": {"repositry": "upright"}}
    ),
    "a setting misspelt": Mistake("'log-fromat'", values={"settings": {"log-fromat": "json"}}),
    "a setting that has no such value": Mistake(
        "/settings/log-format", values={"settings": {"log-format": "jsonl"}}
    ),
    "a setting of another type": Mistake("/settings/drain", values={"settings": {"drain": "10s"}}),
    "a field of a pod misspelt": Mistake(
        "terminationGracePeriodSecond",
        HELPERS, "terminationGracePeriodSeconds:", "terminationGracePeriodSecond:",
    ),
    "a field at the wrong level": Mistake(
        "'maxSurge'", HELPERS,
        "rollingUpdate:\n      maxSurge: 1\n      maxUnav", "maxSurge: 1\n    maxUnav",
    ),
    "a field of another type": Mistake(
        "'often' is not of type 'integer'",
        HELPERS, "periodSeconds: 2\n", "periodSeconds: often\n",
    ),
    "a kind of a version that is gone": Mistake(
        "policy/v1beta1", "templates/pdb.yaml", "policy/v1\n", "policy/v1beta1\n"
    ),
    "a flag misspelt": Mistake("--grpc-prot", HELPERS, "- --grpc-port=", "- --grpc-prot="),
    "a flag by its variable": Mistake(
        "--UPRIGHT_KEYS", HELPERS, "--keys=/etc", "--UPRIGHT_KEYS=/etc"
    ),
    "a file that nothing mounts": Mistake(
        "--tls-cert /etc/upright/certs/tls.crt lies in no volume",
        HELPERS, "--tls-cert=/etc/upright/tls/", "--tls-cert=/etc/upright/certs/",
    ),
    "a volume misspelt": Mistake("no volume is named", HELPERS, "- name: tmp\n          empty",
                                 "- name: temp\n          empty"),
    "another port than the service's": Mistake(
        "the ports {'http': 8001", HELPERS,
        "containerPort: {{ $root.Values.ports.http }}", "containerPort: 8001",
    ),
    "a port's name misspelt in a Service": Mistake(
        "no pod has a port named htpp", HELPERS, "targetPort: http\n", "targetPort: htpp\n"
    ),
    "a port's name misspelt in the NetworkPolicy": Mistake(
        "no pod has a port named", POLICY, "port: grpc}", "port: gprc}"
    ),
    "a port's name misspelt in a monitor": Mistake(
        "no Service has a port named metrics", MONITORING, "- port: http\n", "- port: metrics\n"
    ),
    "a label that selects nothing": Mistake(
        "selects 0 Deployments", HELPERS,
        "    app.kubernetes.io/component: {{ .component }}\n  ports:",
        "    app.kubernetes.io/component: live\n  ports:",
    ),
    "a budget that counts the test's pod": Mistake(
        "which no controller keeps", "templates/pdb.yaml", "[stable, canary]", "[stable, test]"
    ),
    "a probe of a path that is not there": Mistake(
        "/healthz", HELPERS, '"path" "/health/ready"', '"path" "/healthz"'
    ),
    "a probe of a path that wants a key": Mistake(
        "a probe asks /model", HELPERS, '"path" "/health/ready"', '"path" "/model"'
    ),
    "a readiness that asks for life": Mistake(
        "asks whether it is alive", HELPERS, '"path" "/health/ready"', '"path" "/health/live"'
    ),
    "a grace shorter than the drain": Mistake(
        "is shorter than a drain", HELPERS, '(index .Values.settings "shutdown")) 10', "1) 1",
    ),
    "service links": Mistake("UPRIGHT_PORT", HELPERS, "enableServiceLinks: false",
                             "enableServiceLinks: true"),
    "another user than the image's": Mistake(
        "the user 1000 is not", values={"podSecurityContext": {"runAsUser": 1000}}
    ),
    "a metric misspelt": Mistake(
        "upright_action_total", SCALING, "upright_actions_total", "upright_action_total"
    ),
    "a field of KEDA misspelt": Mistake(
        "'\"maxReplicasCount\"' does not exist", SCALING, "maxReplicaCount", "maxReplicasCount"
    ),
    "two autoscalers of the replicas": Mistake(
        "has replicas of its own", "templates/deployment.yaml",
        "(ternary nil .Values.replicas $autoscaled)", ".Values.replicas",
    ),
    "a field of the operator misspelt": Mistake(
        "'\"intervall\"' does not exist", MONITORING, "interval: {{", "intervall: {{"
    ),
    "a field of a route misspelt": Mistake(
        "'\"timeout\"' does not exist", ROUTES, "timeouts:", "timeout:"
    ),
    "a time that is none": Mistake(
        "HTTPRoute/demo-upright", ROUTES, '"0s" $timeout', '"never" $timeout'
    ),
    "a time-out of streams": Mistake(
        "/act/stream has a time-out of 60s", ROUTES, '"0s" $timeout', '"60s" $timeout'
    ),
    "a route of an endpoint that is not there": Mistake(
        "/act/streams is no endpoint", ROUTES, '"/act/stream"', '"/act/streams"'
    ),
    "a route of another package's calls": Mistake(
        "inference.GrpcInferenceService",
        ROUTES, "inference.GRPCInferenceService", "inference.GrpcInferenceService",
    ),
    "a path of metrics that is not there": Mistake(
        "/prometheus is no endpoint", MONITORING, "path: /metrics", "path: /prometheus"
    ),
}  # fmt: skip
VALUES = MATRIX["all that others bring"] | {
    "dashboard": {"enabled": False},
    "keys": {"secretName": "keys"},
    "tls": {"secretName": "tls"},
    "serviceMonitor": {"enabled": True, "credentials": {"secretName": "scrape"}},
}


@pytest.mark.parametrize("title", MISTAKES)
def test_each_mistake_is_named(title: str, tmp_path: Path, exposed_metrics: set[str]) -> None:
    mistake = MISTAKES[title]
    chart = tmp_path / "upright"
    shutil.copytree(CHART, chart)
    if mistake.file:
        file = chart / mistake.file
        assert mistake.right in file.read_text()
        file.write_text(file.read_text().replace(mistake.right, mistake.wrong))
    try:
        found = problems(render(VALUES | mistake.values, chart), exposed_metrics)
    except subprocess.CalledProcessError as error:
        found = [error.stderr]
    assert any(mistake.complaint in problem for problem in found), found


def test_without_a_mistake_nothing_is_named(tmp_path: Path, exposed_metrics: set[str]) -> None:
    shutil.copytree(CHART, tmp_path / "upright")
    objects = render(VALUES, tmp_path / "upright")
    assert problems(objects, exposed_metrics) == []
    assert objects == render(VALUES)
