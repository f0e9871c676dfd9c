"""Objects against the schemas of Kubernetes, and against the types of others."""

import json
import re
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import kubernetes_validate
from kubernetes_validate import utils

from tests.deploy.objects import KUBERNETES, Object, group_of, name_of
from tests.support.deploy_tools import run, tool
from tests.support.programs import node
from tests.support.project import ROOT

# Schemas are read anew for each object, which takes nearly all of the time.
utils.schema_contents = cache(utils.schema_contents)
_valid: set[str] = set()  # objects of others in which nothing was wrong

GROUPS_OF_TYPES = {
    "gateway.networking.k8s.io": "gateway-api",
    "keda.sh": "keda",
    "monitoring.coreos.com": "prometheus-operator",
}
KSERVE = "serving.kserve.io"  # whose models are in kserve_models.py


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
