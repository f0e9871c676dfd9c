"""What goes wrong: each fault begins, lasts a while, and is over when its function returns."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.operations.chaos.world import FAKETIME, Service, World

LASTS_SECONDS = 3.0
CPU_CGROUP = Path("/sys/fs/cgroup/cpu")
MEMORY_CGROUP = Path("/sys/fs/cgroup/memory")
CPU_SHARE_PERCENT = 20
MEMORY_ROOM_BYTES = 16 * 2**20
LOSS = 0.05

Fault = Callable[[World, random.Random], None]


def _pick(world: World, rng: random.Random) -> Service:
    return rng.choice(world.services)


def killed(world: World, rng: random.Random) -> None:
    """End a process by SIGKILL, and start it anew at once."""
    service = _pick(world, rng)
    service.stop(signal.SIGKILL)
    service.start()


def halted(world: World, rng: random.Random) -> None:
    """Halt a process for 2 seconds."""
    service = _pick(world, rng)
    os.kill(service.pid, signal.SIGSTOP)
    time.sleep(2)
    os.kill(service.pid, signal.SIGCONT)


def restarted(world: World, _rng: random.Random) -> None:
    """Restart the processes one after the other, by SIGTERM."""
    for service in world.services:
        service.stop(signal.SIGTERM)
        service.start()


def broken_bundle(world: World, rng: random.Random) -> None:
    """Put half a policy into a process's bundle, and tell it to load that; then mend it."""
    service = _pick(world, rng)
    policy = service.bundle / "policy.onnx"
    content = policy.read_bytes()
    policy.write_bytes(content[: len(content) // 2])
    os.kill(service.pid, signal.SIGHUP)
    time.sleep(LASTS_SECONDS)
    policy.write_bytes(content)
    os.kill(service.pid, signal.SIGHUP)


def reloaded(world: World, _rng: random.Random) -> None:
    """Let all processes load the same policy under another digest, and again the first."""
    manifests = [service.bundle / "manifest.json" for service in world.services]
    contents = [manifest.read_text() for manifest in manifests]
    for change in ({"version": "other"}, {}):
        for service, manifest, content in zip(world.services, manifests, contents, strict=True):
            manifest.write_text(json.dumps(json.loads(content) | change) if change else content)
            os.kill(service.pid, signal.SIGHUP)
        time.sleep(LASTS_SECONDS / 2)


def little_cpu(world: World, rng: random.Random) -> None:
    """Give a process a fifth of a core."""
    with _cgroup(CPU_CGROUP, _pick(world, rng)) as folder:
        period = int((folder / "cpu.cfs_period_us").read_text())
        (folder / "cpu.cfs_quota_us").write_text(str(period * CPU_SHARE_PERCENT // 100))
        time.sleep(LASTS_SECONDS)


def little_memory(world: World, rng: random.Random) -> None:
    """Give a process 16 MiB more memory than it has."""
    service = _pick(world, rng)
    with _cgroup(MEMORY_CGROUP, service) as folder:
        pages = int(Path(f"/proc/{service.pid}/statm").read_text().split()[1])
        room = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY_ROOM_BYTES
        (folder / "memory.limit_in_bytes").write_text(str(room))
        time.sleep(LASTS_SECONDS)


@contextlib.contextmanager
def _cgroup(root: Path, service: Service) -> Iterator[Path]:
    folder = root / f"upright-chaos-{os.getpid()}"
    folder.mkdir()
    try:
        (folder / "cgroup.procs").write_text(str(service.pid))
        yield folder
    finally:
        (root / "cgroup.procs").write_text(str(service.pid))
        folder.rmdir()


def full_disk(world: World, rng: random.Random) -> None:
    """Leave no room where a process records its decisions."""
    service = _pick(world, rng)
    filler = service.folder / "record" / "filler"
    with contextlib.suppress(OSError), filler.open("wb") as file:
        while True:
            file.write(bytes(65_536))
    time.sleep(LASTS_SECONDS)
    filler.unlink()


def packet_loss(world: World, rng: random.Random) -> None:
    """Lose one packet in twenty on the way to a process."""
    rule = ("INPUT", "-m", "statistic", "--mode", "random", "--probability", str(LOSS))
    namespace = _pick(world, rng).namespace
    for action in ("-A", "-D"):
        command = ["ip", "netns", "exec", str(namespace), "iptables", action, *rule, "-j", "DROP"]
        subprocess.run(command, check=True, capture_output=True, timeout=10)
        if action == "-A":
            time.sleep(LASTS_SECONDS)


def partition(world: World, rng: random.Random) -> None:
    """Cut the link to a process."""
    namespace = _pick(world, rng).namespace
    for state in ("down", "up"):
        command = ["ip", "-n", str(namespace), "link", "set", "far", state]
        subprocess.run(command, check=True, capture_output=True, timeout=10)
        if state == "down":
            time.sleep(LASTS_SECONDS)


def slow_collector(world: World, _rng: random.Random) -> None:
    """Let the collector of traces answer after a minute."""
    world.collector.delay = 60.0
    time.sleep(LASTS_SECONDS)
    world.collector.delay = 0.0


def clock_step(world: World, _rng: random.Random) -> None:
    """Set the last process's clock an hour ahead, and back."""
    service = world.services[-1]
    for offset in ("+3600", "+0"):
        service.clock.write_text(offset)
        time.sleep(LASTS_SECONDS / 2)


FAULTS: dict[str, Fault] = {
    "SIGKILL": killed,
    "SIGSTOP for 2 s": halted,
    "rolling restart": restarted,
    "broken bundle": broken_bundle,
    "reload": reloaded,
    "a fifth of a core": little_cpu,
    "memory limit": little_memory,
    "disk full for the record": full_disk,
    "packet loss of 5 %": packet_loss,
    "partition": partition,
    "slow collector": slow_collector,
    "clock step": clock_step,
}


def possible(world: World) -> dict[str, Fault]:
    """Return the faults that this machine allows; `world.notes` says why others are left out."""
    allowed = dict(FAULTS)
    if not world.has_namespaces:
        del allowed["packet loss of 5 %"], allowed["partition"]
    elif shutil.which("iptables") is None:
        del allowed["packet loss of 5 %"]
        world.notes.append("no iptables: packet loss is left out")
    if not FAKETIME.exists():
        del allowed["clock step"]
        world.notes.append(
            "no libfaketime (apt-get install libfaketime): the clock step is left out"
        )
    for name, root in (("a fifth of a core", CPU_CGROUP), ("memory limit", MEMORY_CGROUP)):
        if not (root / "cgroup.procs").exists() or os.geteuid() != 0:
            del allowed[name]
            world.notes.append(f"{root} cannot be written: the fault {name!r} is left out")
    if not _has_small_disks(world):
        del allowed["disk full for the record"]
        world.notes.append("no small disk can be mounted: the full disk is left out")
    return allowed


def _has_small_disks(world: World) -> bool:
    return all(os.path.ismount(service.folder / "record") for service in world.services)
