"""Bundles: one exported policy as a folder, read with every check and written whole.

A folder holds `manifest.json`, the artifacts it lists (`policy.onnx`, `policy.pt`) and extra
files for people (a model card, plots). The manifest holds the SHA-256 of every artifact, and the
digest of the bundle is the SHA-256 of the manifest, so one value pins everything. Nothing is
opened before its hash was checked, and nothing is ever unpickled.

What can go wrong:

    BundleError
    ├── BundleMissingError    the folder or a file in it is not there or cannot be read
    ├── BundleInvalidError    the manifest is not one of this schema
    ├── ArtifactChangedError  a file's size or SHA-256 is not what the manifest says
    └── BundleWriteError      a bundle cannot be put in that place
"""

import dataclasses
import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from models import files
from models.manifest import MANIFEST, Artifact, Format, Manifest
from models.text import printable

SIGNATURE = "model.sig"  # beside the manifest, in a bundle that was signed
MANIFEST_BYTES_MAX = 1 << 20
READ_ATTEMPTS = 5  # a bundle may be replaced again and again while it is read
READABLE_BY_ALL = 0o755  # another user serves a bundle, and nothing in it is secret
REMEDY = "export it again with python -m training"
ALLOW = "let this user read it (chmod, chown), or run as another"


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


@dataclass(frozen=True)
class Bundle:
    """A bundle whose every byte was checked.

    What is in memory is what was hashed, whatever happens to the files later.
    """

    folder: Path
    digest: str  # "sha256:" and 64 hexadecimal digits
    manifest: Manifest
    artifacts: Mapping[Format, bytes]
    # As they were hashed; empty where the bundle was not read from files.
    manifest_bytes: bytes = field(default=b"", repr=False)


def describe(file: str, content: bytes) -> Artifact:
    """Name, size and SHA-256 of a file with this content."""
    return Artifact(file=file, size=len(content), sha256=hashlib.sha256(content).hexdigest())


def digest(manifest: bytes) -> str:
    """Return the identity of the bundle whose manifest file has these bytes."""
    return f"sha256:{hashlib.sha256(manifest).hexdigest()}"


# Reading


def read(folder: Path) -> Bundle:
    """Read a bundle and check its schema and every SHA-256.

    A bundle that is replaced while it is read is read again, so the result is the old bundle or
    the new one, never a mix.

    Raises `BundleMissingError`, `BundleInvalidError` or `ArtifactChangedError`; each names the
    file, what was expected, what was found and what to do.
    """
    attempts = 0
    while True:
        attempts += 1
        with _open_folder(folder) as descriptor:
            try:
                return _read(folder, descriptor)
            except BundleError:
                if attempts == READ_ATTEMPTS or not _was_replaced(folder, descriptor):
                    raise


@contextmanager
def _open_folder(folder: Path) -> Iterator[int]:
    """Hold a folder open, so that all files come from one bundle even if another takes its name."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        remedy = (
            ALLOW
            if isinstance(error, PermissionError)
            else "train one with make train, or python -m training train"
        )
        raise BundleMissingError(
            f"{folder}: no bundle can be read here ({_reason(error)}); {remedy}"
        ) from error

    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _was_replaced(folder: Path, descriptor: int) -> bool:
    opened = os.fstat(descriptor)
    try:
        current = folder.stat()
    except OSError:
        return False
    return (opened.st_dev, opened.st_ino) != (current.st_dev, current.st_ino)


def _read(folder: Path, descriptor: int) -> Bundle:
    path = folder / MANIFEST
    manifest_bytes = _read_file(path, descriptor, MANIFEST_BYTES_MAX)
    if len(manifest_bytes) > MANIFEST_BYTES_MAX:
        raise BundleInvalidError(f"{path}: larger than {MANIFEST_BYTES_MAX} bytes; {REMEDY}")
    manifest = _parse(path, manifest_bytes)

    artifacts: dict[Format, bytes] = {}
    for name, artifact in manifest.artifacts.items():
        artifacts[name] = _read_artifact(folder / artifact.file, descriptor, artifact)
    return Bundle(folder, digest(manifest_bytes), manifest, artifacts, manifest_bytes)


def _read_artifact(path: Path, descriptor: int, artifact: Artifact) -> bytes:
    content = _read_file(path, descriptor, artifact.size)
    if len(content) != artifact.size:
        larger = len(content) > artifact.size
        size = f"more than {artifact.size} bytes" if larger else f"{len(content)} bytes"
        raise ArtifactChangedError(
            f"{path}: size differs from {MANIFEST}: expected {artifact.size} bytes,"
            f" found {size}; {REMEDY}"
        )

    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != artifact.sha256:
        raise ArtifactChangedError(
            f"{path}: SHA-256 differs from {MANIFEST}: expected {artifact.sha256},"
            f" found {sha256}; {REMEDY}"
        )
    return content


def _read_file(path: Path, folder: int, limit: int) -> bytes:
    """Read at most `limit` + 1 bytes of a regular file: a larger one shows without being read."""
    try:
        # Non-blocking: a pipe in a file's place must not hold the program.
        descriptor = os.open(path.name, os.O_RDONLY | os.O_NONBLOCK, dir_fd=folder)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise BundleMissingError(f"{path}: not a regular file; {REMEDY}")
            return file.read(limit + 1)
    except OSError as error:
        remedy = ALLOW if isinstance(error, PermissionError) else REMEDY
        raise BundleMissingError(f"{path}: cannot be read ({_reason(error)}); {remedy}") from error


def _parse(path: Path, content: bytes) -> Manifest:
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        details = error.errors(include_url=False)
        if any(each["loc"] == ("schema_version",) and each["input"] == 1 for each in details):
            raise BundleInvalidError(
                f"{path}: is a manifest of schema 1, and only schema 2 is read; export the policy"
                " again with python -m training, to another folder or after removing this one"
            ) from error

        first = details[0]
        field_name = ".".join(printable(str(part))[:100] for part in first["loc"]) or "the document"
        more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
        raise BundleInvalidError(
            f"{path}: not a manifest of schema 2: {field_name}: {first['msg']}{more}; {REMEDY}"
        ) from error


# Writing


def check_place(folder: Path) -> None:
    """Check that a bundle may be written here: nothing, an empty folder, or an older bundle alone.

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
            f"{folder}: is the folder that you are in, or holds it;"
            " choose another place for the bundle"
        )
    if folder.is_symlink() or not folder.is_dir():
        raise BundleWriteError(
            f"{folder}: exists and is not a folder; choose another place for the bundle"
        )

    names = {entry.name for entry in folder.iterdir()}
    if names:
        _check_is_bundle(folder, names)
        _check_can_be_replaced(folder)


def _check_is_bundle(folder: Path, names: set[str]) -> None:
    """Check that the files in a folder are a bundle's and no others."""
    try:
        manifest = _parse(folder / MANIFEST, (folder / MANIFEST).read_bytes())
    except (OSError, BundleError) as error:
        raise BundleWriteError(
            f"{folder}: holds files but no readable {MANIFEST}, so it is not replaced;"
            " choose another place"
        ) from error

    others = names - {MANIFEST, SIGNATURE, *manifest.files}
    if others:
        raise BundleWriteError(
            f"{folder}: holds files that are not the bundle's ({', '.join(sorted(others))});"
            " move them away first"
        )


def _check_can_be_replaced(folder: Path) -> None:
    """Check that two folders beside this one can be exchanged in one step.

    Some file systems cannot (NFS, older ZFS), and some kernels (gVisor).
    """
    try:
        with (
            files.temporary_folder(folder) as one,
            files.temporary_folder(folder) as other,
        ):
            files.exchange_folders(one, other)
    except OSError as error:
        raise BundleWriteError(
            f"{folder}: the bundle there cannot be replaced in one step ({_reason(error)});"
            " move it away, or choose another place for the bundle"
        ) from error


def write(folder: Path, manifest: Manifest, contents: Mapping[str, bytes]) -> Bundle:
    """Write a bundle whole and return it: a reader sees the older bundle or this one.

    `contents` holds every artifact and extra file of the manifest, by name. The folder is made
    beside its place, read back and checked, and exchanged with what is there in one step.

    Raises `BundleWriteError` when the place is taken by something else or cannot be written, or
    when `contents` and the manifest differ.
    """
    folder = folder.absolute()
    check_place(folder)
    if manifest.files != set(contents):
        raise BundleWriteError(
            f"{folder}: the manifest lists {sorted(manifest.files)},"
            f" but the files given are {sorted(contents)}"
        )

    try:
        _make_parents(folder)
        with files.temporary_folder(folder) as temp_folder:
            bundle = _fill(temp_folder, manifest, contents, mode=_mode(folder))
            files.move_folder(temp_folder, folder)
            files.sync(folder.parent)
    except OSError as error:
        raise BundleWriteError(
            f"{folder}: cannot be written ({_reason(error)}); nothing was changed there;"
            " choose another place for the bundle"
        ) from error
    return dataclasses.replace(bundle, folder=folder)


def _fill(folder: Path, manifest: Manifest, contents: Mapping[str, bytes], *, mode: int) -> Bundle:
    """Write a bundle's files into an empty folder, and read them back from there."""
    manifest_bytes = manifest.model_dump_json(indent=2).encode() + b"\n"
    for name, content in {**contents, MANIFEST: manifest_bytes}.items():
        files.write_durably(folder / name, content)
        (folder / name).chmod(mode & 0o666)
    folder.chmod(mode)
    files.sync(folder)
    return read(folder)


def _make_parents(folder: Path) -> None:
    """Make the folders above a bundle's that are not there, so that all may reach the bundle."""
    missing = [parent for parent in folder.parents if not parent.exists()]
    for parent in reversed(missing):
        parent.mkdir(exist_ok=True)
        parent.chmod(READABLE_BY_ALL)


def _mode(folder: Path) -> int:
    """Return the permissions of a bundle's folder: those of the bundle that it replaces.

    Else all may read it, whatever the umask.
    """
    try:
        return stat.S_IMODE(folder.stat().st_mode)
    except FileNotFoundError:
        return READABLE_BY_ALL


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__
