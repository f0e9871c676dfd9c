"""Peers: how each server is installed, started and asked. Knows nothing of how it is measured."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.environments import ROOT, environment

HERE = Path(__file__).parent
APPS = HERE / "apps"
MODEL = ROOT / "models" / "cartpole-dqn" / "policy.onnx"

Command = tuple[list[str], dict[str, str]]  # what is run, and what is added to its environment


@dataclass(frozen=True)
class Peer:
    """A server: its name, environment, command (from a port and a folder), and how it is asked."""

    name: str
    environment: str
    command: Callable[[Path, int, Path], Command]
    path: str = "/act"
    body: Callable[[list[float]], Any] = field(default=lambda state: {"state": state})
    q_values: Callable[[Any], list[float]] = field(default=lambda answer: list(answer["q_values"]))
    checked: bool = True  # the limit answers no question


def environment_of(name: str) -> Path:
    """Return the folder of a peer's environment; Upright's stands on the project's files, too."""
    own = (ROOT / "constraints.txt", ROOT / "pyproject.toml") if name == "upright" else ()
    return environment(name, HERE / "requirements" / f"{name}.txt", *own)


def _uvicorn(app: str) -> Callable[[Path, int, Path], Command]:
    flags = ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--no-server-header"]
    return lambda folder, port, _: (
        [str(folder / "bin" / "uvicorn"), *flags, "--app-dir", str(APPS), "--port", str(port), app],
        {},
    )


def _script(name: str) -> Callable[[Path, int, Path], Command]:
    return lambda folder, port, _: (
        [str(folder / "bin" / "python"), str(APPS / name), str(port)],
        {"PYTHONPATH": str(APPS)},
    )


def _upright(folder: Path, port: int, _: Path) -> Command:
    return [
        str(folder / "bin" / "python"),
        "-m",
        "service",
        "--drain",
        "0",
        "--port",
        str(port),
    ], {}


def _bentoml(folder: Path, port: int, scratch: Path) -> Command:
    serve = [
        str(folder / "bin" / "bentoml"),
        "serve",
        "bentoml_app:Act",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--working-dir",
        str(APPS),
    ]
    return serve, {
        "PYTHONPATH": str(APPS),
        "BENTOML_HOME": str(scratch),
        "BENTOML_DO_NOT_TRACK": "True",
    }


def _mlserver(folder: Path, port: int, scratch: Path) -> Command:
    settings = {
        "host": "127.0.0.1",
        "http_port": port,
        "grpc_port": port + 1,
        "metrics_port": port + 2,
        "parallel_workers": 0,
        "debug": False,
    }
    (scratch / "settings.json").write_text(json.dumps(settings))
    (scratch / "model-settings.json").write_text(
        json.dumps({"name": "act", "implementation": "mlserver_app.Act"})
    )
    return [str(folder / "bin" / "mlserver"), "start", str(scratch)], {"PYTHONPATH": str(APPS)}


def _mlflow(folder: Path, port: int, scratch: Path) -> Command:
    saved, variables = (
        scratch / "model",
        {
            "PYTHONPATH": str(APPS),
            "PATH": f"{folder / 'bin'}:/usr/bin:/bin",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        },
    )
    if not saved.exists():
        write = [str(folder / "bin" / "python"), "mlflow_app.py", str(saved)]
        subprocess.run(
            write, check=True, cwd=APPS, env=variables | {"MODEL": str(MODEL)}, capture_output=True
        )
    serve = [
        str(folder / "bin" / "mlflow"),
        "models",
        "serve",
        "-m",
        str(saved),
        "-h",
        "127.0.0.1",
        "-p",
        str(port),
    ]
    return [*serve, "--env-manager", "local", "-w", "1"], variables


def _triton(folder: Path, port: int, scratch: Path) -> Command:
    package = next((folder / "lib").glob("python3.*")) / "site-packages"
    triton, model = package / "pytriton" / "tritonserver", scratch / "models" / "act"
    backends = scratch / "backends"
    if not model.exists():
        shutil.copytree(triton / "backends", backends)
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        shutil.copy(
            triton / "python_backend_stubs" / version / "triton_python_backend_stub",
            backends / "python",
        )
        (model / "1").mkdir(parents=True)
        shutil.copy(APPS / "triton_app.py", model / "1" / "model.py")
        shutil.copy(APPS / "onnx_policy.py", model / "1")
        (model / "config.pbtxt").write_text(
            'name: "act" backend: "python" max_batch_size: 0 instance_group [{ kind: KIND_CPU'
            " count: 1 }]\n"
            'input [{ name: "state" data_type: TYPE_FP32 dims: [ -1, 4 ] }]\n'
            'output [{ name: "q_values" data_type: TYPE_FP32 dims: [ -1, 2 ] }]\n'
        )
    libraries = [
        str(path)
        for path in (
            package / "nvidia_pytriton.libs",
            package / "pytriton" / "tritonserver" / "external_libs",
        )
        if path.exists()
    ]
    libraries.append(str(Path(sys.base_prefix) / "lib"))
    flags = [
        f"--model-repository={scratch / 'models'}",
        f"--backend-directory={backends}",
        f"--http-port={port}",
        "--http-address=127.0.0.1",
    ]
    flags += [f"--grpc-port={port + 2}", "--grpc-address=127.0.0.1"]
    flags += [f"--metrics-port={port + 1}", "--metrics-address=127.0.0.1"]
    variables = {
        "LD_LIBRARY_PATH": ":".join(libraries),
        "PYTHONPATH": f"{package}:{APPS}",
        "PATH": f"{folder / 'bin'}:/usr/bin:/bin",
    }
    return [str(triton / "bin" / "tritonserver"), *flags], variables


def _torchserve(folder: Path, port: int, scratch: Path) -> Command:
    variables = {
        "PYTHONPATH": str(APPS),
        "PATH": f"{folder / 'bin'}:/usr/bin:/bin",
        "TEMP": str(scratch),
        "LOG_LOCATION": str(scratch),
    }
    if not (scratch / "act.mar").exists():
        archive = [
            str(folder / "bin" / "torch-model-archiver"),
            "--model-name",
            "act",
            "--version",
            "1",
            "--handler",
            str(APPS / "torchserve_app.py"),
        ]
        archive += ["--extra-files", str(APPS / "onnx_policy.py"), "--export-path", str(scratch)]
        subprocess.run(archive, check=True, env=variables, capture_output=True)
    (scratch / "config.properties").write_text(
        f"inference_address=http://127.0.0.1:{port}\n"
        f"management_address=http://127.0.0.1:{port + 1}\n"
        f"metrics_address=http://127.0.0.1:{port + 2}\n"
        "default_workers_per_model=1\ndisable_token_authorization=true\nmodel_store="
        + str(scratch)
        + "\nload_models=act.mar\n"
    )
    start = [
        str(folder / "bin" / "torchserve"),
        "--start",
        "--foreground",
        "--ncs",
        "--model-store",
        str(scratch),
        "--disable-token-auth",
    ]
    return [*start, "--ts-config", str(scratch / "config.properties")], variables | {
        "METRICS_LOCATION": str(scratch)
    }


def _inference_request(state: list[float]) -> dict[str, Any]:
    return {"inputs": [{"name": "state", "shape": [1, 4], "datatype": "FP32", "data": state}]}


def _inference_answer(answer: Any) -> list[float]:
    return list(answer["outputs"][0]["data"])


LIMIT = Peer(
    "bare ASGI app under uvicorn (the limit)", "upright", _uvicorn("limit:app"), checked=False
)
UPRIGHT = Peer("Upright", "upright", _upright)
UPRIGHT_INFERENCE = Peer(
    "Upright, Open Inference Protocol",
    "upright",
    _upright,
    "/v2/models/cartpole-dqn/infer",
    _inference_request,
    _inference_answer,
)
FASTAPI = Peer("plain FastAPI", "fastapi", _uvicorn("fastapi_app:app"))
PEERS = {
    "fastapi": FASTAPI,
    "triton": Peer(
        "Triton, Python backend",
        "triton",
        _triton,
        "/v2/models/act/infer",
        _inference_request,
        _inference_answer,
    ),
    "mlserver": Peer(
        "MLServer, no worker processes",
        "mlserver",
        _mlserver,
        "/v2/models/act/infer",
        _inference_request,
        _inference_answer,
    ),
    "litserve": Peer("LitServe", "litserve", _script("litserve_app.py")),
    "bentoml": Peer("BentoML", "bentoml", _bentoml),
    "mlflow": Peer(
        "MLflow",
        "mlflow",
        _mlflow,
        "/invocations",
        lambda state: {"inputs": [state]},
        lambda answer: list(answer["predictions"][0]),
    ),
    "torchserve": Peer("TorchServe", "torchserve", _torchserve, "/predictions/act"),
    "ray": Peer("Ray Serve", "ray", _script("ray_app.py")),
}
