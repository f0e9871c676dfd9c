"""Writes docs/public.json: the names that others build on. `make public` runs it; a test compares.

What a name means stands in the documents; this file shows that one was added, changed or taken
away, and so which part of the version has to rise.
"""

import inspect
import json
from collections.abc import Iterator
from typing import Any

import upright_client
from prometheus_client.parser import text_string_to_metric_families

from models.manifest import Manifest
from service.endpoints import ENDPOINTS
from service.observability.metrics import Metrics
from service.settings import Settings, flag, variable
from tests.support.openapi import FILE as OPENAPI
from tests.support.project import ROOT

FILE = ROOT / "docs" / "public.json"
CHART = ROOT / "deploy" / "helm" / "upright" / "values.schema.json"


def document() -> str:
    """Return what is public, as it is committed."""
    content = {
        "endpoints": _endpoints(),
        "settings": {
            flag(name): [variable(name), repr(field.default)]
            for name, field in Settings.model_fields.items()
        },
        "metrics": _metrics(),
        "manifest": sorted(_properties(Manifest.model_json_schema())),
        "client": _client(),
        "chart": sorted(_properties(json.loads(CHART.read_text()))) if CHART.exists() else [],
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _endpoints() -> dict[str, list[str]]:
    """Return the paths, gRPC's among them, with what is asked there and the scope that it needs."""
    paths = json.loads(OPENAPI.read_text())["paths"]
    return {
        each.path: [*sorted(name.upper() for name in paths.get(each.path, {})), str(each.scope)]
        for each in ENDPOINTS
    }


def _metrics() -> dict[str, list[str]]:
    """Return the metrics, each with its type and its labels."""
    metrics = Metrics(["left", "right"], ["x"])
    metrics.observe_request("/act", 200, 1e-5)
    metrics.observe_inference(1e-5, [0], [[]])
    labels = dict.fromkeys(("model", "version", "digest", "backend"), "")
    return {
        family.name: [
            family.type,
            *sorted({label for sample in family.samples for label in sample.labels}),
        ]
        for family in text_string_to_metric_families(metrics.exposition(labels).decode())
    }


def _properties(schema: dict[str, Any], path: str = "") -> Iterator[str]:
    """Give the paths of all properties of a JSON schema."""
    for name, part in schema.get("$defs", {}).items():
        yield from _properties(part, f"{name}.")
    for name, part in schema.get("properties", {}).items():
        yield f"{path}{name}"
        yield from _properties(part, f"{path}{name}.")


def _client() -> dict[str, str]:
    """Return what the client exports: classes with the parameters of their public methods."""
    exported: dict[str, str] = {}
    for name in upright_client.__all__:
        value = getattr(upright_client, name)
        exported[name] = _signature(value)
        for method, function in inspect.getmembers(value, inspect.isfunction):
            if not method.startswith("_"):
                exported[f"{name}.{method}"] = _signature(function)
    return exported


def _signature(value: object) -> str:
    if inspect.isclass(value) or inspect.isroutine(value):
        return ", ".join(inspect.signature(value).parameters)
    return repr(value)


if __name__ == "__main__":
    FILE.write_text(document())
