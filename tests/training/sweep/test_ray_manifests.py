"""What deploy/ray holds fits Ray, the code and each other."""

import json
import re
import shlex
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml

from tests.support.project import ROOT
from training.commands.command_line import SweepCommand, parse

RAY = ROOT / "deploy" / "ray"
# Of ray.io/v1 as KubeRay 1.4 defines them, without what no manifest here needs.
JOB_FIELDS = {
    "entrypoint",
    "submissionMode",
    "backoffLimit",
    "shutdownAfterJobFinishes",
    "ttlSecondsAfterFinished",
    "activeDeadlineSeconds",
    "rayClusterSpec",
}
CLUSTER_FIELDS = {"rayVersion", "headGroupSpec", "workerGroupSpecs"}
HEAD_FIELDS = {"rayStartParams", "template"}
WORKER_FIELDS = HEAD_FIELDS | {"groupName", "replicas", "minReplicas", "maxReplicas"}


@pytest.fixture
def job() -> dict[str, Any]:
    documents = list(yaml.safe_load_all((RAY / "rayjob.yaml").read_text()))
    assert [document["kind"] for document in documents] == ["RayJob", "PersistentVolumeClaim"]
    spec: dict[str, Any] = documents[0]["spec"]
    return spec


def groups(job: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = job["rayClusterSpec"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def test_the_job_has_fields_that_kuberay_knows(job: dict[str, Any]) -> None:
    assert job.keys() <= JOB_FIELDS
    assert job["rayClusterSpec"].keys() == CLUSTER_FIELDS
    head, *workers = groups(job)
    assert head.keys() == HEAD_FIELDS
    for group in workers:
        assert group.keys() == WORKER_FIELDS
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for group in groups(job):
        # KubeRay makes flags of them, and knows texts alone.
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())


def test_the_job_runs_the_ray_that_everything_is_tested_with(job: dict[str, Any]) -> None:
    assert job["rayClusterSpec"]["rayVersion"] == version("ray")
    assert f"ray=={version('ray')}\n" in (ROOT / "constraints.txt").read_text()
    images = {group["template"]["spec"]["containers"][0]["image"] for group in groups(job)}
    (image,) = images  # Ray asks for the same release everywhere
    assert f"--tag {image} " in (RAY / "Dockerfile").read_text()


def test_the_job_types_a_sweep_that_a_lost_head_does_not_end(job: dict[str, Any]) -> None:
    python, dash_m, module, *words = shlex.split(job["entrypoint"])
    assert (python, dash_m, module) == ("python", "-m", "training")
    command = parse(words)
    assert isinstance(command, SweepCommand)
    assert (command.address, command.resume) == ("auto", True)
    mounts = {
        mount["mountPath"]
        for group in groups(job)
        for mount in group["template"]["spec"]["containers"][0]["volumeMounts"]
    }
    assert command.storage is not None
    assert str(Path(command.storage).parent) in mounts


def test_pods_may_run_where_only_restricted_ones_may(job: dict[str, Any]) -> None:
    for group in groups(job):
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not pod["enableServiceLinks"]
        assert not pod["automountServiceAccountToken"]
        container = pod["containers"][0]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert not container["securityContext"]["allowPrivilegeEscalation"]
        named = {volume["name"] for volume in pod["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == named


def test_kubernetes_takes_the_pods(job: dict[str, Any]) -> None:
    validator = pytest.importorskip("kubernetes_validate")
    for group in groups(job):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ray"}}
        validator.validate({**pod, **group["template"]}, "1.31", strict=True)


def test_ray_takes_the_cluster_of_machines() -> None:
    cluster = yaml.safe_load((RAY / "cluster.yaml").read_text())
    schema = Path(ray.__file__).parent / "autoscaler" / "ray-schema.json"
    jsonschema.validate(cluster, json.loads(schema.read_text()))
    assert cluster["max_workers"] == len(cluster["provider"]["worker_ips"])
    started = [*cluster["head_start_ray_commands"], *cluster["worker_start_ray_commands"]]
    assert all(re.match(r"(RAY_USAGE_STATS_ENABLED=0 )?/opt/upright/", each) for each in started)
