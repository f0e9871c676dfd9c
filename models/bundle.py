"""A bundle: one exported policy as a folder, pinned by its manifest. Knows nothing of torch, onnxruntime or HTTP.

A folder holds `manifest.json`, the artifacts it lists (`policy.onnx`, `policy.pt`) and companions for people (a model card, a plot).
The digest of a bundle is the SHA-256 of its manifest's bytes; the manifest holds the SHA-256 of every artifact, so one value pins all.

What can go wrong:

    BundleError
    ├── BundleMissingError    the folder or a file in it is not there or cannot be read
    ├── BundleInvalidError    the manifest is not one of this schema
    ├── ArtifactChangedError  a file's size or SHA-256 is not what the manifest says
    └── BundleWriteError      a bundle cannot be put in that place
"""

import ctypes
import dataclasses
import errno
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    model_validator,
)

MANIFEST = "manifest.json"
MANIFEST_BYTES_MAX = 1 << 20
READ_ATTEMPTS = 5  # a bundle that is replaced again and again while it is read
REMEDY = "export it again with python -m training"

FLOAT32_MAX = 3.4028234663852886e38
Finite = Annotated[float, Field(allow_inf_nan=False)]
Float32 = Annotated[float, Field(allow_inf_nan=False, ge=-FLOAT32_MAX, le=FLOAT32_MAX)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=100)]
Version = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=50)]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
Format = Literal["onnx", "torchscript"]


class BundleError(Exception):
    """Raised when a bundle cannot be trusted, read or written."""


class BundleMissingError(BundleError):
    """Raised when the folder or a file in it is not there or cannot be read."""


class BundleInvalidError(BundleError):
    """Raised when `manifest.json` is not a manifest of a known schema."""


class ArtifactChangedError(BundleError):
    """Raised when a file's size or SHA-256 differs from the manifest."""


class BundleWriteError(BundleError):
    """Raised when a bundle cannot be written to the place asked for."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Artifact(_Part):
    """One file of the bundle that a program loads."""

    file: FileName
    size: int = Field(ge=0, le=1 << 30, description="bytes")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Environment(_Part):
    """What the policy was trained in."""

    id: str
    step_seconds: float = Field(gt=0, description="time between two states")
    max_episode_steps: int = Field(gt=0)


class StateValue(_Part):
    """One of the numbers of a state: its meaning, its bounds and what training saw of it."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    unit: str
    low: Finite | None = Field(
        description="least value the environment can observe; none if unbounded"
    )
    high: Finite | None = Field(
        description="largest value the environment can observe; none if unbounded"
    )
    seen_min: Float32 = Field(description="least value in training")
    seen_max: Float32 = Field(description="largest value in training")
    quantiles: dict[str, Finite] = Field(
        description="quantiles of the values in training, by their share"
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.seen_min > self.seen_max:
            raise ValueError(
                f"{self.name}: seen_min {self.seen_min} is above seen_max {self.seen_max}"
            )
        return self


class Network(_Part):
    """The shape of the network: states in, hidden layers with ReLU, Q-values out."""

    inputs: int = Field(gt=0)
    hidden: tuple[Annotated[int, Field(gt=0)], ...]
    outputs: int = Field(gt=0)
    activation: Literal["relu"] = "relu"


class Provenance(_Part):
    """How the policy came to be."""

    recipe: str
    hyperparameters: dict[str, JsonValue]
    seed: int = Field(ge=0)
    device: str
    versions: dict[str, str] = Field(
        description="releases of Python and the libraries that trained and exported"
    )
    commit: str | None = Field(
        description="commit of the project, with +changes where the checkout had any; none outside of git"
    )
    steps: int = Field(ge=0, description="environment steps, of all agents together")
    stopped: str = Field(description="why training ended")
    seconds: float = Field(ge=0, description="wall time of training")


class Evaluation(_Part):
    """Greedy episodes of the exported ONNX file, on seeds that training never uses."""

    seed: int
    episodes: int = Field(gt=0)
    mean: Finite = Field(description="mean score, in steps")
    minimum: int = Field(ge=0, description="worst score, in steps")
    share_at_limit: float = Field(
        ge=0, le=1, description="share of episodes that lasted to the time limit"
    )


class ExamColumn(_Part):
    """One column of the exam: runs under one kind of difficulty, and the share of them that the pole survived."""

    name: str
    steps: int = Field(gt=0, description="length of a run")
    runs: int = Field(gt=0)
    share: float = Field(ge=0, le=1, description="share of runs in which the pole stayed up")
    reference: float = Field(
        ge=0, le=1, description="the same of a linear-quadratic regulator, on the same runs"
    )


class Exam(_Part):
    """How the exported ONNX file does beyond the nominal plant, beside the reference controller."""

    seed: int
    columns: tuple[ExamColumn, ...] = Field(min_length=1)


class Gate(_Part):
    """What the recipe asks of a policy before it is exported, and whether this one passed."""

    name: Literal["nominal", "robust"]
    passed: bool
    failures: tuple[str, ...] = Field(
        description="what the policy failed, in words; empty if it passed"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.passed == bool(self.failures):
            raise ValueError(
                f"passed is {self.passed}, but there are {len(self.failures)} failures"
            )
        return self


class Parity(_Part):
    """How closely torch, ONNX and TorchScript agreed on the same states."""

    states: int = Field(gt=0)
    absolute_tolerance: float = Field(gt=0, le=1e-3)
    relative_tolerance: float = Field(ge=0, le=1e-3)
    largest_difference: dict[str, Finite] = Field(description="largest |ΔQ| by pair of runtimes")
    near_ties: int = Field(
        ge=0,
        description="states whose two best Q-values lie within twice the tolerance, where actions may differ",
    )


class GoldenState(_Part):
    """A state with the Q-values that every backend must reproduce before it serves."""

    state: tuple[Float32, ...]
    q_values: tuple[Float32, ...]


class Manifest(_Part):
    """All that is known of a bundle. Its bytes are the bundle's identity."""

    schema_version: Literal[1] = 1
    name: Name
    version: Version
    created: AwareDatetime
    provenance: Provenance
    environment: Environment
    state: tuple[StateValue, ...] = Field(min_length=1)
    actions: tuple[str, ...] = Field(min_length=1)
    network: Network
    evaluation: Evaluation
    exam: Exam
    gate: Gate
    parity: Parity
    golden_states: tuple[GoldenState, ...] = Field(min_length=1)
    artifacts: dict[Format, Artifact] = Field(min_length=1)
    companions: tuple[FileName, ...] = Field(
        default=(), description="files beside the artifacts, for people"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        shape = (self.network.inputs, self.network.outputs)
        if shape != (len(self.state), len(self.actions)):
            raise ValueError(
                f"network is {shape[0]} → {shape[1]}, but there are {len(self.state)} state values and {len(self.actions)} actions"
            )
        for index, golden in enumerate(self.golden_states):
            if (len(golden.state), len(golden.q_values)) != shape:
                raise ValueError(
                    f"golden_states[{index}] does not have {shape[0]} state values and {shape[1]} Q-values"
                )
        for what, words in (
            ("state", [value.name for value in self.state]),
            ("actions", self.actions),
        ):
            if len(set(words)) != len(words) or not all(words):
                raise ValueError(
                    f"{what} has a name that is empty or there twice: {', '.join(words)}"
                )
        names = [
            MANIFEST,
            *(artifact.file for artifact in self.artifacts.values()),
            *self.companions,
        ]
        if len(set(names)) != len(names):
            raise ValueError(
                f"two files of the bundle have the same name: {', '.join(sorted(names))}"
            )
        return self


@dataclass(frozen=True)
class Bundle:
    """A bundle whose every byte was checked. What is in memory is what was hashed, whatever happens to the files later."""

    folder: Path
    digest: str  # "sha256:" and 64 hexadecimal digits
    manifest: Manifest
    artifacts: Mapping[Format, bytes]
    manifest_bytes: bytes = field(
        default=b"", repr=False
    )  # as they were hashed; none where the bundle was not read from files


def describe(file: str, content: bytes) -> Artifact:
    """Name, size and SHA-256 of a file with this content."""
    return Artifact(file=file, size=len(content), sha256=hashlib.sha256(content).hexdigest())


def digest(manifest: bytes) -> str:
    """Return the identity of the bundle whose manifest file has these bytes."""
    return f"sha256:{hashlib.sha256(manifest).hexdigest()}"


def read(folder: Path) -> Bundle:
    """Read a bundle and check its schema and every SHA-256.

    A bundle that is replaced while it is read is read again, so the answer is the old one or the new one, never a mix.

    Raises `BundleMissingError`, `BundleInvalidError` or `ArtifactChangedError`; each names the file, what was expected, what was found
    and what to do.
    """
    attempts = 0
    while True:
        attempts += 1
        with _opened(folder) as handle:
            try:
                return _read(folder, handle.number)
            except BundleError:
                if attempts == READ_ATTEMPTS or not handle.was_replaced(folder):
                    raise


def check_place(folder: Path) -> None:
    """Check that a bundle may be written to `folder`: it is absent, empty, or an older bundle and nothing else.

    Raises `BundleWriteError` before anything of the user's would be lost.
    """
    if not os.path.lexists(folder):
        parent = next(each for each in folder.absolute().parents if each.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
            raise BundleWriteError(
                f"{folder}: no folder can be made in {parent}; choose another place for the bundle"
            )
        return
    if Path.cwd().is_relative_to(folder.resolve()):
        raise BundleWriteError(
            f"{folder}: is the folder that you are in, or holds it; choose another place for the bundle"
        )
    if folder.is_symlink() or not folder.is_dir():
        raise BundleWriteError(
            f"{folder}: exists and is not a folder; choose another place for the bundle"
        )
    present = {entry.name for entry in folder.iterdir()}
    if not present:
        return
    try:
        manifest = _parse(folder / MANIFEST, (folder / MANIFEST).read_bytes())
    except (OSError, BundleError) as error:
        raise BundleWriteError(
            f"{folder}: holds files but no readable {MANIFEST}, so it is not replaced; choose another place"
        ) from error
    strange = present - {
        MANIFEST,
        *(artifact.file for artifact in manifest.artifacts.values()),
        *manifest.companions,
    }
    if strange:
        raise BundleWriteError(
            f"{folder}: holds files that are not the bundle's ({', '.join(sorted(strange))}); move them away first"
        )


def write(folder: Path, manifest: Manifest, files: Mapping[str, bytes]) -> Bundle:
    """Write a bundle whole and return it: a reader sees the bundle that was there before, or this one.

    `files` holds every artifact and companion of the manifest, by name. The folder is made beside its place, read back and checked,
    and exchanged with what is there in one step.

    Raises `BundleWriteError` when the place is taken by something else or cannot be written, or `files` and the manifest differ.
    """
    folder = folder.absolute()
    check_place(folder)
    expected = {artifact.file for artifact in manifest.artifacts.values()} | set(
        manifest.companions
    )
    if expected != set(files):
        raise BundleWriteError(
            f"{folder}: the manifest lists {sorted(expected)}, but the files given are {sorted(files)}"
        )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise BundleWriteError(
            f"{folder}: cannot be written ({_reason(error)}); choose another place for the bundle"
        ) from error
    try:
        beside.chmod(0o755)
        content = manifest.model_dump_json(indent=2).encode() + b"\n"
        for name, data in {**files, MANIFEST: content}.items():
            write_durably(beside / name, data)
        _sync_folder(beside)
        written = read(beside)
        _move_into_place(beside, folder)
        _sync_folder(folder.parent)
    except OSError as error:
        raise BundleWriteError(
            f"{folder}: cannot be written ({_reason(error)}); nothing was changed there"
        ) from error
    finally:
        shutil.rmtree(
            beside, ignore_errors=True
        )  # the older bundle after the exchange, or what could not be moved
    return dataclasses.replace(written, folder=folder)


class _opened:  # noqa: N801 - used as a function: with _opened(folder) as handle
    """A folder held open, so that all its files come from one bundle even if another takes its name."""

    def __init__(self, folder: Path) -> None:
        try:
            self.number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise BundleMissingError(
                f"{folder}: no bundle can be read here ({_reason(error)}); train one with make train"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.number)

    def was_replaced(self, folder: Path) -> bool:
        here = os.fstat(self.number)
        try:
            now = folder.stat()
        except OSError:
            return False
        return (here.st_dev, here.st_ino) != (now.st_dev, now.st_ino)


def _read(folder: Path, number: int) -> Bundle:
    content = _read_file(folder / MANIFEST, number, MANIFEST_BYTES_MAX)
    if len(content) > MANIFEST_BYTES_MAX:
        raise BundleInvalidError(
            f"{folder / MANIFEST}: larger than {MANIFEST_BYTES_MAX} bytes; {REMEDY}"
        )
    manifest = _parse(folder / MANIFEST, content)
    artifacts: dict[Format, bytes] = {}
    for kind, artifact in manifest.artifacts.items():
        path = folder / artifact.file
        data = _read_file(path, number, artifact.size)
        if len(data) != artifact.size:
            found = (
                f"{len(data)} bytes"
                if len(data) < artifact.size
                else f"more than {artifact.size} bytes"
            )
            raise ArtifactChangedError(
                f"{path}: size differs from {MANIFEST}: expected {artifact.size} bytes, found {found}; {REMEDY}"
            )
        found = hashlib.sha256(data).hexdigest()
        if found != artifact.sha256:
            raise ArtifactChangedError(
                f"{path}: SHA-256 differs from {MANIFEST}: expected {artifact.sha256}, found {found}; {REMEDY}"
            )
        artifacts[kind] = data
    return Bundle(folder, digest(content), manifest, artifacts, content)


def _read_file(path: Path, folder: int, limit: int) -> bytes:
    """Read at most `limit` + 1 bytes of a regular file, so that a larger one shows without being read."""
    try:
        # Non-blocking: a pipe in a file's place must not hold the program.
        number = os.open(path.name, os.O_RDONLY | os.O_NONBLOCK, dir_fd=folder)
        with os.fdopen(number, "rb") as file:
            if not stat.S_ISREG(os.fstat(number).st_mode):
                raise BundleMissingError(f"{path}: not a regular file; {REMEDY}")
            return file.read(limit + 1)
    except OSError as error:
        raise BundleMissingError(f"{path}: cannot be read ({_reason(error)}); {REMEDY}") from error


def _parse(path: Path, content: bytes) -> Manifest:
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(_printable(str(part)) for part in first["loc"]) or "the document"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise BundleInvalidError(
            f"{path}: not a manifest of schema 1: {where}: {first['msg']}{more}; {REMEDY}"
        ) from error


def write_durably(path: Path, data: bytes) -> None:
    """Write a new file, and return once it is on the disk. Raises `OSError`, also where the file exists."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _move_into_place(beside: Path, folder: Path) -> None:
    """Give `beside` the name `folder` in one step; what was there, if anything, then has the name `beside`."""
    try:
        beside.rename(folder)  # succeeds where nothing, or an empty folder, is in the place
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise BundleWriteError(
                f"{folder}: the bundle cannot be moved here ({_reason(error)})"
            ) from error
        _exchange(beside, folder)


def _exchange(one: Path, other: Path) -> None:
    """Exchange two folders atomically: renameat2(2) with RENAME_EXCHANGE, which Python does not offer."""
    at_working_directory, rename_exchange = (
        -100,
        2,
    )  # AT_FDCWD, RENAME_EXCHANGE in Linux's fcntl.h and fs.h
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        raise BundleWriteError(
            f"{other}: this system cannot exchange two folders in one step; remove the older bundle first"
        )
    if (
        rename(
            at_working_directory,
            os.fsencode(one),
            at_working_directory,
            os.fsencode(other),
            rename_exchange,
        )
        != 0
    ):
        raise BundleWriteError(
            f"{other}: the older bundle cannot be replaced ({os.strerror(ctypes.get_errno())}); remove it first"
        )


def _printable(text: str) -> str:
    """Return what came from a file so that it can do nothing to a terminal or a log."""
    return "".join(character if character.isprintable() else "?" for character in text)[:100]


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__
