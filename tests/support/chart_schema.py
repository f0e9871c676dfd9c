"""Writes the settings into the schema of the chart's values, as `make settings` does.

A test holds the schema to the settings.
"""

import json
from typing import Any

from service.settings import Settings
from tests.support.project import ROOT

FILE = ROOT / "deploy" / "helm" / "upright" / "values.schema.json"

# What the chart sets by values of its own, or what means nothing in a pod. By `allowed_host` the
# kubelet and Prometheus, who call a pod by its address, would be refused.
CHARTS_OWN = {
    "host", "port", "grpc_port", "uds", "uds_mode", "uds_only", "config", "allowed_host",
    "bundle", "bundle_wait", "watch", "shadow", "verify_key",
    "keys", "tls_cert", "tls_key", "tls_key_password", "tls_client_ca",
}  # fmt: skip
WORDS = ("type", "enum", "pattern", "minimum", "maximum", "exclusiveMinimum")


def setting_schemas() -> dict[str, Any]:
    """Return the schema of each setting that may stand in the values, by its flag's name."""
    schemas = {}
    for name, field in Settings.model_json_schema()["properties"].items():
        if name in CHARTS_OWN:
            continue

        choices = [choice for choice in field.get("anyOf", [field]) if choice["type"] != "null"]
        schema = {word: choices[0][word] for word in WORDS if word in choices[0]}
        if schema["type"] == "array":
            items = choices[0]["items"]
            schema["items"] = {word: items[word] for word in WORDS if word in items}
        schemas[name.replace("_", "-")] = schema | {"description": field["description"]}
    return schemas


def document() -> str:
    """Return the schema of the values as it must be."""
    schema = json.loads(FILE.read_text())
    schema["properties"]["settings"]["properties"] = setting_schemas()
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(document())
