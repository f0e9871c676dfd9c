"""Ray: one of its own on this machine, or a cluster that is there already."""

import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from training.sweep.plan import ROOT

LOCAL = "local"
OBJECT_STORE_BYTES = 80 << 20  # about the least that Ray takes: what trials send are some kilobytes
CONNECT_SECONDS = 5.0
STARTS = 3  # of a Ray of our own, on a machine that may be busy
SETTINGS = {
    # Milliseconds: on a busy machine its processes take longer than Ray would wait.
    "RAY_agent_register_timeout_ms": "300000",
    "RAY_worker_register_timeout_seconds": "300",
    "RAY_USAGE_STATS_ENABLED": "0",  # no reports over the network
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # no warning of a setting that is to come
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the rows are the sweep's own
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
}


class ClusterError(Exception):
    """Raised when no Ray can be started or reached."""


@contextmanager
def connected(address: str, *, cpus: int | None = None) -> Iterator[None]:
    """Start Ray on this machine (`local`), or use a cluster; until the end of the block.

    A Ray of our own listens on the loopback address alone, and takes calls only with a token that
    nobody else knows: whoever may call Ray may run any code. A cluster gets the code of this
    checkout. Raises `ClusterError`.
    """
    os.environ.update({name: value for name, value in SETTINGS.items() if name not in os.environ})
    if address == LOCAL:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        with _temp_folder() as folder:
            yield from _own_ray(cpus, folder)
    else:
        yield from _cluster(address)


def _own_ray(cpus: int | None, folder: Path) -> Iterator[None]:
    import ray  # only now: it reads the environment when it is imported

    for left in reversed(range(STARTS)):
        try:
            ray.init(
                address=LOCAL,
                num_cpus=cpus,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                log_to_driver=False,
                logging_level="ERROR",
                _node_ip_address="127.0.0.1",
                _temp_dir=str(folder),
            )
            break
        except Exception as error:  # Ray raises just that where a start takes more than 30 s
            ray.shutdown()
            if not left:
                raise ClusterError(f"Ray cannot be started here: {_first_line(error)}") from error
    yield from _until_shutdown()


def _cluster(address: str) -> Iterator[None]:
    _check_listener(address)
    import ray

    # Each machine gets these packages as they are here, whatever its image holds.
    packages = [str(ROOT / name) for name in ("training", "models")]
    variables = {name: value for name, value in SETTINGS.items() if name.startswith("RAY_")}
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level="ERROR",
            runtime_env={"py_modules": packages, "env_vars": variables},
        )
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise ClusterError(f"--address: {address}: {_first_line(error)}") from error
    yield from _until_shutdown()


def _until_shutdown() -> Iterator[None]:
    import ray

    try:
        yield
    except ray.exceptions.RayError as error:
        raise ClusterError(
            f"Ray was lost ({_first_line(error)}); what has ended is kept, and the same command"
            " goes on with --resume"
        ) from error
    finally:
        ray.shutdown()


def slots_of(cpus: float, gpus: float) -> int:
    """Return how many trials the connected Ray holds at a time, each with so much."""
    import ray

    total = ray.cluster_resources()
    slots = total.get("CPU", 0) // cpus
    if gpus:
        slots = min(slots, total.get("GPU", 0) // gpus)
    return max(1, int(slots))


def check_room(cpus: float, gpus: float) -> None:
    """Refuse what no machine of the connected Ray can hold, instead of waiting for ever.

    Raises `ClusterError`.
    """
    import ray

    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(each.get("CPU", 0) >= cpus and each.get("GPU", 0) >= gpus for each in machines):
        return
    largest = {name: max(each.get(name, 0) for each in machines) for name in ("CPU", "GPU")}
    raise ClusterError(
        f"--cpus-per-trial {cpus:g} --gpus-per-trial {gpus:g}: no machine has so much at once;"
        f" the most are {largest['CPU']:g} CPUs and {largest['GPU']:g} GPUs"
    )


def _check_listener(address: str) -> None:
    """Refuse an address where nobody listens: Ray would try it for many minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdecimal():
        return  # `auto`, which Ray knows more of
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        reason = error.strerror or str(error)
        raise ClusterError(f"--address: {address}: nobody answers there ({reason})") from error


@contextmanager
def _temp_folder() -> Iterator[Path]:
    """Give Ray a folder with a short name: its sockets' paths have 107 characters at most."""
    parent = tempfile.gettempdir()
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir=parent if len(parent) <= 20 else "/tmp"))  # noqa: S108 - mkdtemp makes a new one
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:300]
