"""The objects of manifests: how they are read, rendered from the chart, and named."""

import json
from pathlib import Path
from typing import Any

import yaml

from tests.support.deploy_tools import run, tool
from tests.support.project import ROOT

Object = dict[str, Any]

# The oldest version that Chart.yaml allows, and the newest one there is.
KUBERNETES = ("1.31", "1.37")
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
