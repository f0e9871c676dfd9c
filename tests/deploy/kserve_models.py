"""KServe's objects against its own models, and against Kubernetes' definitions inside them."""

import re
import sys
import types
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import import_module
from typing import Any

import jsonschema
from kubernetes_validate import utils

from tests.deploy.objects import KUBERNETES, Object, group_of, name_of
from tests.deploy.schemas import KSERVE
from tests.support.deploy_tools import PYTHON_FOLDER, tool


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
    definitions = _core_definitions()
    end = type_name.removeprefix("K8sIo").lower()  # such as v1container
    (name,) = [name for name in definitions if name.replace(".", "").lower().endswith(end)]
    schema = {"$ref": f"#/$defs/{name}", "$defs": definitions}
    for error in jsonschema.Draft202012Validator(schema).iter_errors(value):
        inner = "".join(f".{part}" for part in error.absolute_path)
        yield f"{place}{inner}: {error.message}"
