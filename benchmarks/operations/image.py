"""The image run as an operator should run it, looked at from outside and from inside.

Its root is read-only, it has no capabilities, and it runs as its own user or as any other. What it
is asked to serve is its own bundle, a mounted one, one that comes late, and one that is not signed.

    make image
    python -m benchmarks.operations.image
    make image-proof                       # builds it twice, and compares the two

Needs root, and Debian's packages buildah and runc. Nothing of the container is reachable from
outside: what is asked is asked within.
"""

import argparse
import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.calling.served import BUNDLE
from models import bundle
from service.auth.key_file import add_key

BUILDAH, RUNC = (
    shutil.which(name) or sys.exit(f"{name} is needed: apt-get install {name}")
    for name in ("buildah", "runc")
)
GOLDEN = bundle.read(BUNDLE).manifest.golden_states[0]
ACTION = GOLDEN.q_values.index(max(GOLDEN.q_values))
DEPENDENCY_BYTES_MAX = 200_000_000
MOUNT = "/mnt/models"  # where KServe has a bundle
START_SECONDS = 60.0  # a loaded machine takes long

ASK = """
import sys, urllib.request, urllib.error
body = sys.argv[2].encode() if len(sys.argv) > 2 else None
try:
    with urllib.request.urlopen("http://127.0.0.1:" + sys.argv[1], body, 10) as answer:
        print(answer.status, answer.read().decode())
except urllib.error.HTTPError as error:
    print(error.code, error.read().decode())
"""
ASK_BY_GRPC = """
import sys, grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from service.grpc import inference_pb2, inference_pb2_grpc
with grpc.insecure_channel("127.0.0.1:9000") as channel:
    health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
    request = inference_pb2.ModelInferRequest(model_name="cartpole-dqn")
    state = request.inputs.add(name="state", datatype="FP32", shape=[1, 4])
    state.contents.fp32_contents.extend(map(float, sys.argv[1:]))
    answer = inference_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=10)
    print(health.status, len(answer.raw_output_contents) or len(answer.outputs))
"""
ASK_WITH_KEY = """
import sys, urllib.request
headers = {"Authorization": "Bearer " + sys.argv[1]}
request = urllib.request.Request("http://127.0.0.1:8000/act", sys.argv[2].encode(), headers)
with urllib.request.urlopen(request, timeout=10) as answer:
    print(answer.status)
"""
WRITE = """
import errno
for place in ("/", "/app", "/opt/venv", "/etc", "/var"):
    try:
        open(place + "/x", "w")
    except OSError as error:
        print(errno.errorcode[error.errno])
"""
STALE = """
import importlib.util, pathlib
print(sum(not pathlib.Path(importlib.util.cache_from_source(str(path))).exists()
          for root in ("/app", "/opt/venv/lib") for path in pathlib.Path(root).rglob("*.py")))
"""
NO_CAPABILITIES: dict[str, list[str]] = {
    kind: [] for kind in ("bounding", "effective", "permitted", "inheritable", "ambient")
}

Rows = dict[str, tuple[object, object]]  # what was seen, and what it should be


def output(*command: str) -> str:
    """Return what a command prints. Raises `CalledProcessError`."""
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


def inspect(image: str) -> dict[str, Any]:
    """Return what the builder knows of an image."""
    known: dict[str, Any] = json.loads(output(BUILDAH, "inspect", "--type", "image", image))
    return known


@contextlib.contextmanager
def mounted(image: str) -> Iterator[Path]:
    """Give the root of a container made from the image, until the end of the block."""
    container = output(BUILDAH, "from", "--pull-never", image).strip()
    try:
        yield Path(output(BUILDAH, "mount", container).strip())
    finally:
        output(BUILDAH, "rm", container)


class Container:
    """A container that runs the image's entry with arguments of its own."""

    count = 0

    def __init__(self, root: Path, config: dict[str, Any], folder: Path) -> None:
        Container.count += 1
        self.name = f"upright-check-{os.getpid()}-{Container.count}"
        self.folder = folder
        self._root = root
        self._config = config
        self.process: subprocess.Popen[bytes]

    @contextlib.contextmanager
    def running(
        self, *arguments: str, user: str = "", mounts: dict[Path, str] | None = None
    ) -> Iterator["Container"]:
        """Run until the end of the block, as the image's own user or as `user`."""
        self._write_spec(arguments, user or self._config["User"], mounts or {})
        with (
            (self.folder / "log").open("wb") as log,
            subprocess.Popen(
                (RUNC, "run", "--bundle", str(self.folder), self.name),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            ) as self.process,
        ):
            try:
                yield self
            finally:
                if self.process.poll() is None:
                    output(RUNC, "kill", self.name, "KILL")

    def _write_spec(self, arguments: tuple[str, ...], user: str, mounts: dict[Path, str]) -> None:
        output(RUNC, "spec", "--bundle", str(self.folder))
        spec = json.loads((self.folder / "config.json").read_text())
        uid, gid = (int(part) for part in user.split(":"))  # fails if it is a name
        spec["process"] |= {
            "terminal": False,
            "user": {"uid": uid, "gid": gid},
            "args": [*self._config["Entrypoint"], *(self._config["Cmd"] or []), *arguments],
            "cwd": self._config["WorkingDir"],
            "env": self._config["Env"],
            "capabilities": NO_CAPABILITIES,
            "noNewPrivileges": True,
        }
        spec["root"] = {"path": str(self._root), "readonly": True}
        temporary = {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"}  # noqa: S108 - within the container
        spec["mounts"].append(temporary | {"options": ["nosuid", "nodev"]})
        for source, destination in mounts.items():
            bind = {"destination": destination, "type": "bind", "source": str(source)}
            spec["mounts"].append(bind | {"options": ["rbind", "ro"]})
        (self.folder / "config.json").write_text(json.dumps(spec))

    @property
    def log(self) -> str:
        """What the container has printed."""
        return (self.folder / "log").read_text()

    def wait_for(self, text: str) -> None:
        """Wait until the container prints a text. Raises `RuntimeError` if it does not."""
        until = time.monotonic() + START_SECONDS
        while text not in self.log:
            if self.process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"no {text!r} in:\n{self.log}")
            time.sleep(0.05)

    def inside(self, *command: str) -> str:
        """Return what a command prints in the container, as the service's user."""
        return output(RUNC, "exec", self.name, *command).strip()

    def ask(self, path: str, body: object = None) -> tuple[int, str]:
        """Return the status and the body of an answer; `path` begins with the port."""
        text = [] if body is None else [json.dumps(body)]
        status, _, answer = self.inside("python", "-c", ASK, path, *text).partition(" ")
        return int(status), answer

    def stop(self, signal: str) -> int:
        """Send a signal, and return the exit code."""
        output(RUNC, "kill", self.name, signal)
        return self.process.wait(30)


def main() -> None:
    """Run the image, look at it from both sides, print a table; fail where it is wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("image", nargs="?", default="upright:latest")
    parser.add_argument(
        "--builds", nargs=2, metavar="IMAGE", help="two builds of it, as OCI images, to be compared"
    )
    parser.add_argument(
        "--another-revision",
        metavar="IMAGE",
        help="it built from the cache with REVISION=another, to see that no old label is in it",
    )
    options = parser.parse_args()

    known = inspect(options.image)
    config = known["Docker"]["config"]
    rows: Rows = {}
    with tempfile.TemporaryDirectory() as name, mounted(options.image) as root:
        folder = Path(name)
        folder.chmod(0o755)

        def container() -> Container:
            return Container(root, config, Path(tempfile.mkdtemp(dir=folder)))

        rows |= contents(root, config)
        rows |= as_it_is(container)
        rows |= as_any_user_with_a_mounted_bundle(container, folder)
        rows |= with_keys(container, folder)
        rows |= with_a_late_bundle(container, folder)
        rows |= with_signatures(container, folder)
    if options.builds:
        rows |= builds(known, *map(inspect, options.builds))
    if options.another_revision:
        labels = inspect(options.another_revision)["Docker"]["config"]["Labels"]
        revision = labels["org.opencontainers.image.revision"]
        rows["the revision's label, built from the cache"] = (revision, "another")
    print("| what | seen | as it should be |\n| --- | --- | --- |")
    for what, (seen, right) in rows.items():
        print(f"| {what} | {seen!r} | {'yes' if seen == right else f'no: {right!r}'} |")
    sys.exit(int(any(seen != right for seen, right in rows.values())))


def contents(root: Path, config: dict[str, Any]) -> Rows:
    """Look at the files and the settings of the image."""
    size = sum(path.lstat().st_size for path in (root / "opt/venv").rglob("*") if not path.is_dir())
    print(f"the dependencies have {size / 1e6:.0f} MB", file=sys.stderr)
    programs = [
        str(path.relative_to(root))
        for place in ("usr/bin", "usr/local/bin", "opt/venv/bin")
        for pattern in ("pip*", "gcc*", "cc", "c++", "make", "uv")
        for path in (root / place).glob(pattern)
    ]
    return {
        "entry, command": (
            (config["Entrypoint"], config["Cmd"] or []),
            (["python", "-m", "service"], []),
        ),
        "user, stop signal": ((config["User"], config["StopSignal"]), ("10001:0", "SIGTERM")),
        "dependencies under 200 MB": (size < DEPENDENCY_BYTES_MAX, True),
        "pip, compilers": (programs, []),
    }


def builds(image: dict[str, Any], one: dict[str, Any], other: dict[str, Any]) -> Rows:
    """Compare two builds, as OCI images, with each other and with what is run here.

    An image in Docker's format holds the number of the container that it was made in, if buildah
    made it, so its layers alone are compared.
    """
    return {
        "two builds: their digest": (other["FromImageDigest"], one["FromImageDigest"]),
        "their layers, and this image's": (
            image["OCIv1"]["rootfs"]["diff_ids"] == one["OCIv1"]["rootfs"]["diff_ids"],
            True,
        ),
    }


def as_it_is(container: Callable[[], Container]) -> Rows:
    """Run the image's own bundle as its own user, with a flag for gRPC."""
    with container().running("--grpc-port=9000", "--drain=0") as service:
        service.wait_for("startup complete")
        pid = json.loads(output(RUNC, "state", service.name))["pid"]
        status = Path(f"/proc/{pid}/status").read_text()
        _, answer = service.ask("8000/act", {"state": GOLDEN.state})
        state = map(str, GOLDEN.state)
        rows: Rows = {
            "user": (_values("Uid", status), "10001"),
            "group": (_values("Gid", status), "0"),
            "capabilities": (_values("Cap(?:Inh|Prm|Eff|Bnd|Amb)", status), "0" * 16),
            "no new privileges": (_values("NoNewPrivs", status), "1"),
            "writing to /, /app, /opt/venv, /etc, /var": (
                service.inside("python", "-c", WRITE).split(),
                ["EROFS"] * 5,
            ),
            "sources without bytecode": (service.inside("python", "-c", STALE), "0"),
            "action of POST /act": (json.loads(answer)["action"], ACTION),
            "gRPC: health, outputs": (service.inside("python", "-c", ASK_BY_GRPC, *state), "1 2"),
            "its health check": (
                service.inside("python", "-m", "service", "health"),
                "ready: http://0.0.0.0:8000",
            ),
        }
        output(RUNC, "kill", service.name, "HUP")  # a reload, which finds the same bundle
        time.sleep(0.5)
        rows["exit code after SIGTERM"] = (service.stop("TERM"), 0)
    with container().running("--tracing", "--port=8123") as service:
        service.wait_for("startup complete")
        rows["flags: the port; tracing is inside"] = (service.ask("8123/health/ready")[0], 200)
        rows["exit code after SIGINT"] = (service.stop("INT"), 0)
    with container().running("--prot=1") as service:
        code = service.process.wait(60)
        rows["a flag that is none"] = ((code, "--prot" in service.log), (2, True))
    return rows


def as_any_user_with_a_mounted_bundle(container: Callable[[], Container], folder: Path) -> Rows:
    """Run another bundle as a user that the image does not know."""
    source = folder / "other"
    shutil.copytree(BUNDLE, source)
    with container().running(
        f"--bundle={MOUNT}", "--drain=0", user="1234567:0", mounts={source: MOUNT}
    ) as service:
        service.wait_for("startup complete")
        pid = json.loads(output(RUNC, "state", service.name))["pid"]
        status = Path(f"/proc/{pid}/status").read_text()
        return {
            "another user": (_values("Uid|Gid", status), "0 1234567"),
            "its mounted bundle": (f"from {MOUNT}" in service.log, True),
            "its action": (
                json.loads(service.ask("8000/act", {"state": GOLDEN.state})[1])["action"],
                ACTION,
            ),
            "its exit code after SIGTERM": (service.stop("TERM"), 0),
        }


def with_keys(container: Callable[[], Container], folder: Path) -> Rows:
    """Mount a folder of keys that their owner alone can read; run as the owner and as another.

    A file in the place of another is seen in a mounted folder, and not where itself is mounted.
    """
    place, (key, successor) = folder / "keys-of-callers", (secrets.token_hex(32) for _ in range(2))
    place.mkdir()
    keys = place / "keys.toml"

    def add(name: str, key: str) -> None:
        add_key(keys, name, ["act"], hashlib.sha256(key.encode()).hexdigest())
        os.chown(keys, 4321, 0)

    add("loop-7", key)
    mounts, flag = {place: "/mnt/keys"}, "--keys=/mnt/keys/keys.toml"
    body = json.dumps({"state": GOLDEN.state})
    with container().running(flag, user="4321:0", mounts=mounts) as service:
        service.wait_for("startup complete")
        rows: Rows = {
            "with keys: POST /act without one": (
                service.ask("8000/act", {"state": [0] * 4})[0],
                401,
            ),
            "with one": (service.inside("python", "-c", ASK_WITH_KEY, key, body), "200"),
            "the probe, without one": (service.ask("8000/health/ready")[0], 200),
        }
        add("loop-7-next", successor)
        output(RUNC, "kill", service.name, "HUP")
        service.wait_for("Keys were read again")
        status = service.inside("python", "-c", ASK_WITH_KEY, successor, body)
        rows["with one that is added while it runs, after SIGHUP"] = (status, "200")
    with container().running(flag, mounts=mounts) as service:
        code = service.process.wait(60)
        told = "/mnt/keys/keys.toml: cannot be read (Permission denied)" in service.log
        rows["a file of keys that its user cannot read"] = ((code, told), (1, True))
    return rows


def with_a_late_bundle(container: Callable[[], Container], folder: Path) -> Rows:
    """Let the bundle come when the service is up."""
    source = folder / "late"
    source.mkdir()
    with container().running(
        f"--bundle={MOUNT}", "--bundle-wait=120", "--drain=0", mounts={source: MOUNT}
    ) as service:
        service.wait_for("not ready")
        before = [service.ask(f"8000/health/{what}")[0] for what in ("live", "ready")]
        shutil.copytree(BUNDLE, source, dirs_exist_ok=True)
        service.wait_for("startup complete")
        return {
            "a late bundle: live, ready before": (before, [200, 503]),
            "ready after": (service.ask("8000/health/ready")[0], 200),
        }


def with_signatures(container: Callable[[], Container], folder: Path) -> Rows:
    """Ask for a signature where there is none, where there is one, and where it is another's."""
    keys = folder / "keys"
    keys.mkdir()
    for name in ("ours", "foreign"):
        private = ("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout")
        output(*private, "-out", str(keys / f"{name}.pem"))
        public = ("openssl", "ec", "-in", str(keys / f"{name}.pem"), "-pubout")
        output(*public, "-out", str(keys / f"{name}.pub"))
    signed = folder / "signed"
    shutil.copytree(BUNDLE, signed)
    output("make", "sign", "--old-file=setup", f"KEY={keys / 'ours.pem'}", f"BUNDLE={signed}")

    rows: Rows = {}
    for what, source, name in (
        ("an unsigned bundle", BUNDLE, "ours"),
        ("a bundle of a foreign key", signed, "foreign"),
    ):
        mounts = {source.resolve(): MOUNT, keys: "/mnt/keys"}
        flags = f"--bundle={MOUNT}", f"--verify-key=/mnt/keys/{name}.pub"
        with container().running(*flags, mounts=mounts) as service:
            code = service.process.wait(60)
            rows[what] = ((code, "is not signed" in service.log), (1, True))
    mounts = {signed: MOUNT, keys: "/mnt/keys"}
    with container().running(
        f"--bundle={MOUNT}", "--verify-key=/mnt/keys/ours.pub", mounts=mounts
    ) as service:
        service.wait_for("startup complete")
        rows["a signed bundle"] = (service.ask("8000/health/ready")[0], 200)
    return rows


def _values(fields: str, status: str) -> str:
    """Return what the kernel says of a process in some fields, each value once."""
    lines = re.findall(rf"^(?:{fields}):(.*)$", status, re.MULTILINE)
    return " ".join(sorted({value for line in lines for value in line.split()}))


if __name__ == "__main__":
    main()
