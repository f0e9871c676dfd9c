"""Checkpoints: snapshots of a training on the disk, as safetensors and JSON, never as pickles.

A run's folder holds the last few of `checkpoint-000001`, `checkpoint-000002`, …. Each is a folder
that was written beside its place and moved there whole: `state.json`, with the SHA-256 of
`arrays.safetensors`.
"""

import hashlib
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, JsonValue
from safetensors import SafetensorError
from safetensors.numpy import load, save

from models.files import exclusive_lock, sync, write_durably
from training.recipes import AnyRecipe
from training.snapshot import Snapshot
from training.trainer import Trainer

STATE = "state.json"
ARRAYS = "arrays.safetensors"
PREFIX = "checkpoint-"
PARTIAL = ".partial-"
LOCK = ".lock"  # held while a training writes here
LIBRARIES = ("torch", "numpy", "gymnasium")  # whose releases may change a bit of the weights


class CheckpointError(Exception):
    """Raised when a folder holds no checkpoint that can be read, or holds one of another run."""


class Identity(BaseModel):
    """What must be the same for two trainings to be the same, bit for bit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    recipe: AnyRecipe
    seed: int
    device: str
    processor: str  # vector instructions differ, and with them the last bits
    versions: dict[str, str]

    @classmethod
    def of(cls, recipe: AnyRecipe, seed: int, device: str) -> "Identity":
        """Return the identity of a training that starts here and now."""
        versions = {
            "python": platform.python_version(),
            **{library: version(library) for library in LIBRARIES},
        }
        return cls(
            recipe=recipe, seed=seed, device=device, processor=processor(), versions=versions
        )


def processor() -> str:
    """Return the model of this machine's processor and the instruction set that torch uses.

    As in `AMD EPYC (family 26, model 2, AVX512)`: clouds give many models one name. It is the
    architecture's name where the system tells no model.
    """
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    facts: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        facts.setdefault(name.strip(), value.strip())

    model = facts.get("model name") or platform.processor() or platform.machine()
    numbers = [
        f"{name.removeprefix('cpu ')} {facts[name]}"
        for name in ("cpu family", "model")
        if name in facts
    ]
    return f"{model} ({', '.join([*numbers, torch.backends.cpu.get_cpu_capability()])})"


class State(BaseModel):
    """All of a checkpoint but its arrays."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[4] = 4
    identity: Identity
    seconds: float  # that training took until then
    values: dict[str, JsonValue]  # by path, as `Snapshot.flatten` names them
    arrays_sha256: str


class Checkpoints:
    """The checkpoints of one run: a new one every so many seconds, the last few are kept."""

    def __init__(
        self,
        folder: Path,
        identity: Identity,
        *,
        every: float = 30.0,
        keep: int = 3,
        any_processor: bool = False,
        on_written: Callable[[Path], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Keep the checkpoints of a run in `folder`, the last `keep` of them.

        With `any_processor` the run may go on from a checkpoint of another kind of processor, and
        both stand in its identity then. `on_written` gets the folder of each new checkpoint.
        """
        self.folder = folder
        self.identity = identity
        self._any_processor = any_processor
        self._on_written = on_written
        self._every = every
        self._keep = keep
        self._clock = clock
        self._due = clock() + every
        self._lock = ExitStack()
        self.holds_last = True  # whether all that was to be kept is

    def __enter__(self) -> Self:
        """Make the folder and lock it against other trainings.

        Raises `CheckpointError` where it cannot be written or another training has locked it.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.enter_context(exclusive_lock(self.folder / LOCK, wait=False))
        except BlockingIOError as error:
            raise CheckpointError(
                f"{self.folder}: another training is writing its checkpoints here;"
                " choose another folder"
            ) from error
        except OSError as error:
            raise CheckpointError(
                f"{self.folder}: cannot be written ({error.strerror}); choose another folder"
            ) from error
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    def newest(self) -> tuple[Snapshot, float] | None:
        """Return the newest snapshot and the seconds that training took until then, if any.

        Raises `CheckpointError`, which names the checkpoint, when it is torn or of another run.
        """
        if not numbered(self.folder):
            return None

        state, snapshot = read(self.folder)
        if self._any_processor:
            state = self._join_processors(state)
        for name in Identity.model_fields:
            stored, expected = getattr(state.identity, name), getattr(self.identity, name)
            if stored != expected:
                raise CheckpointError(
                    f"{self.folder}: is of another run: {_difference(name, stored, expected)}"
                )
        return snapshot, state.seconds

    def _join_processors(self, state: State) -> State:
        """Let both identities name the processors of before and now, in their order."""
        before, now = state.identity.processor, self.identity.processor
        both = (
            before if before == now or before.endswith(f", then {now}") else f"{before}, then {now}"
        )
        self.identity = self.identity.model_copy(update={"processor": both})
        identity = state.identity.model_copy(update={"processor": both})
        return state.model_copy(update={"identity": identity})

    def write_if_due(self, trainer: Trainer, seconds: float) -> None:
        """Write a checkpoint if the last one is old enough. Raises `CheckpointError`."""
        if self._clock() >= self._due:
            self.write(trainer, seconds)

    def write(self, trainer: Trainer, seconds: float) -> None:
        """Write a checkpoint, then remove the oldest above the number to keep.

        Raises `CheckpointError` where it cannot be written, as on a full disk; nothing of it stays.
        """
        snapshot = trainer.snapshot().flatten()
        arrays = save({name: array.copy(order="C") for name, array in snapshot.arrays.items()})
        state = State(
            identity=self.identity,
            seconds=seconds,
            values=snapshot.values,
            arrays_sha256=hashlib.sha256(arrays).hexdigest(),
        )

        self._due = self._clock() + self._every
        self.holds_last = False
        try:
            written = self._write(arrays, state.model_dump_json().encode())
        except OSError as error:
            self._remove_partial()
            existing = numbered(self.folder)
            kept = (
                f"{existing[-1].name} is kept, and --resume goes on from it"
                if existing
                else "there was none before it"
            )
            raise CheckpointError(
                f"{self.folder}: a checkpoint cannot be written ({error.strerror}); {kept}"
            ) from error
        self.holds_last = True
        self._on_written(written)

    def _write(self, arrays: bytes, state: bytes) -> Path:
        self._remove_partial()
        temp_folder = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=self.folder))
        write_durably(temp_folder / ARRAYS, arrays)
        write_durably(temp_folder / STATE, state)
        sync(temp_folder)

        existing = numbered(self.folder)
        number = int(existing[-1].name.removeprefix(PREFIX)) + 1 if existing else 1
        written = self.folder / f"{PREFIX}{number:06d}"
        temp_folder.rename(written)
        sync(self.folder)

        for old in numbered(self.folder)[: -self._keep]:
            shutil.rmtree(old)
        return written

    def _remove_partial(self) -> None:
        """Remove what a write that failed, or a program that was killed, has left."""
        for partial in self.folder.glob(f"{PARTIAL}*"):
            shutil.rmtree(partial, ignore_errors=True)

    def clear(self) -> None:
        """Remove the run's checkpoints, so that it starts from the beginning."""
        for old in numbered(self.folder):
            shutil.rmtree(old)


def numbered(folder: Path) -> list[Path]:
    """Return the checkpoints in a run's folder, the oldest first."""
    return sorted(folder.glob(f"{PREFIX}[0-9]*"))


def read(folder: Path) -> tuple[State, Snapshot]:
    """Read a run's newest checkpoint.

    Raises `CheckpointError`, which names the file that is missing or broken.
    """
    existing = numbered(folder)
    if not existing:
        raise CheckpointError(
            f"{folder}: holds no checkpoint; train first with python -m training train"
        )

    newest = existing[-1]
    remedy = f"remove {newest.name} to go on from the one before it"
    path = newest / STATE
    try:
        state = State.model_validate_json(path.read_bytes())
        path = newest / ARRAYS
        content = path.read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        if sha256 != state.arrays_sha256:
            raise CheckpointError(
                f"{path}: SHA-256 differs from {STATE}: expected {state.arrays_sha256},"
                f" found {sha256}; {remedy}"
            )
        return state, Snapshot(load(content), state.values).unflatten()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); {remedy}") from error
    except (ValueError, TypeError, KeyError, SafetensorError) as error:
        # The last but one for a data type that NumPy lacks.
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{path}: not a part of a checkpoint: {reason}; {remedy}") from error


def _difference(name: str, stored: object, expected: object) -> str:
    """Say what was, and is now; of two recipes, by the hyperparameters that differ."""
    if not isinstance(stored, BaseModel) or not isinstance(expected, BaseModel):
        return f"{name} was {stored!r}, and is {expected!r} now"

    before, now = stored.model_dump(), expected.model_dump()
    differences = (
        f"{key} was {before.get(key)!r}, and is {now.get(key)!r} now"
        for key in {**before, **now}
        if before.get(key) != now.get(key)
    )
    return f"{name} was another: {'; '.join(differences)}"
