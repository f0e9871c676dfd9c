"""Peers: how each server is installed and started, and by which protocols it is asked."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.environments import ROOT, environment
from benchmarks.serving.protocols import (
    Protocol,
    inference_binary,
    inference_grpc,
    inference_json,
    plain_json,
)

HERE = Path(__file__).parent
APPS = HERE / "apps"
MODEL = ROOT / "models" / "cartpole-dqn" / "policy.onnx"

GRPC_OFFSET = 2  # of the port of gRPC from that of HTTP
# As long as the service's.
CONSTANT_ANSWER = json.dumps(
    {
        "action": 1,
        "action_name": "right",
        "q_values": [12.345678901234567, 12.345678901234567],
        "out_of_range": [],
        "model": "cartpole-dqn",
        "digest": "sha256:" + "0" * 64,
    },
    separators=(",", ":"),
)

Command = tuple[list[str], dict[str, str]]  # what is run, and what is added to its environment


@dataclass(frozen=True)
class Peer:
    """A server: its name, its environment, its command and its protocols.

    A program of the system has no environment. The command is made from the environment's folder, a
    port and a folder for what it writes. gRPC is at the port `GRPC_OFFSET` above. Protocols have
    the same name in every peer.
    """

    name: str
    environment: str | None
    command: Callable[[Path, int, Path], Command]
    protocols: Mapping[str, Protocol]
    is_checked: bool = True  # what gives a constant answer answers no question


def environment_of(name: str | None) -> Path:
    """Return the folder of a peer's environment; Upright's stands on the project's files, too."""
    if name is None:
        return Path("/usr")
    own = (ROOT / "constraints.txt", ROOT / "pyproject.toml") if name == "upright" else ()
    return environment(name, HERE / "requirements" / f"{name}.txt", *own)


def _uvicorn(app: str) -> Callable[[Path, int, Path], Command]:
    flags = ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--no-server-header"]
    return lambda folder, port, _: (
        [str(folder / "bin" / "uvicorn"), *flags, "--app-dir", str(APPS), "--port", str(port), app],
        {"ANSWER": CONSTANT_ANSWER},  # of the limit
    )


def _script(name: str) -> Callable[[Path, int, Path], Command]:
    return lambda folder, port, _: (
        [str(folder / "bin" / "python"), str(APPS / name), str(port)],
        {"PYTHONPATH": str(APPS)},
    )


def _upright(folder: Path, port: int, _: Path) -> Command:
    python = str(folder / "bin" / "python")
    ports = ["--port", str(port), "--grpc-port", str(port + GRPC_OFFSET)]
    return [python, "-m", "service", "--drain", "0", *ports], {}


def _nginx(_: Path, port: int, scratch: Path) -> Command:
    """Return what starts nginx with a constant answer, as long as that of `POST /act`."""
    configuration = scratch / "nginx.conf"
    configuration.write_text(
        f"daemon off; worker_processes 1; pid {scratch}/pid; error_log stderr;"
        " events { worker_connections 1024; }"
        f" http {{ access_log off; keepalive_requests 1000000000; client_body_temp_path {scratch};"
        f" proxy_temp_path {scratch}; fastcgi_temp_path {scratch}; uwsgi_temp_path {scratch};"
        f" scgi_temp_path {scratch}; default_type application/json;"
        f" server {{ listen 127.0.0.1:{port};"
        f" location / {{ return 200 '{CONSTANT_ANSWER}'; }} }} }}"
    )
    return [shutil.which("nginx") or "nginx", "-c", str(configuration)], {}


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
        "grpc_port": port + GRPC_OFFSET,
        "metrics_port": port + 1,
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
    flags += [f"--grpc-port={port + GRPC_OFFSET}", "--grpc-address=127.0.0.1"]
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


_PLAIN = plain_json("/act", "/act/batch")
_INFERENCE = {
    "v2-json": inference_json("act"),
    "v2-binary": inference_binary("act"),
    "v2-grpc": inference_grpc("act"),
}

LIMIT = Peer(
    "bare ASGI app under uvicorn (the limit)",
    "upright",
    _uvicorn("limit:app"),
    {"plain": _PLAIN},
    is_checked=False,
)
NGINX = Peer("nginx, a constant answer", None, _nginx, {"plain": _PLAIN}, is_checked=False)
UPRIGHT = Peer(
    "Upright",
    "upright",
    _upright,
    {
        "plain": _PLAIN,
        "v2-json": inference_json("cartpole-dqn"),
        "v2-binary": inference_binary("cartpole-dqn"),
        "v2-grpc": inference_grpc("cartpole-dqn"),
    },
)
FASTAPI = Peer("plain FastAPI", "fastapi", _uvicorn("fastapi_app:app"), {"plain": _PLAIN})
PEERS = {
    "fastapi": FASTAPI,
    "triton": Peer("Triton, Python backend", "triton", _triton, _INFERENCE),
    "mlserver": Peer(
        "MLServer, no worker processes",
        "mlserver",
        _mlserver,
        {name: _INFERENCE[name] for name in ("v2-json", "v2-grpc")},
    ),
    "litserve": Peer(
        "LitServe", "litserve", _script("litserve_app.py"), {"plain": plain_json("/act", "/act")}
    ),
    "bentoml": Peer("BentoML", "bentoml", _bentoml, {"plain": _PLAIN}),
    "mlflow": Peer(
        "MLflow",
        "mlflow",
        _mlflow,
        {
            "plain": plain_json(
                "/invocations",
                "/invocations",
                document=lambda states: {"inputs": states},
                answer="predictions",
            )
        },
    ),
    "torchserve": Peer(
        "TorchServe",
        "torchserve",
        _torchserve,
        {"plain": plain_json("/predictions/act", "/predictions/act")},
    ),
    "ray": Peer("Ray Serve", "ray", _script("ray_app.py"), {"plain": plain_json("/act", "/act")}),
}
