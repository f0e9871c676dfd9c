"""Reads the file of a policy that another program has trained, whatever its kind."""

import hashlib
import os
import stat
import zipfile
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

from models.manifest import Origin
from models.text import printable
from training.evaluation.runtimes import PolicyFileError
from training.importing.layers import network_of
from training.importing.onnx_graph import read_onnx
from training.importing.sb3_archive import POLICY, read_sb3
from training.importing.state_dict import SAVE_IT, ZIP, read_state_dict
from training.network import DQNetwork
from training.types import QFunction

FILE_LIMIT = 64 * 2**20  # bytes
PICKLE = b"\x80"
LFS = b"version https://git-lfs.github.com/spec/"
HDF5, TEXT = b"\x89HDF", (b"{", b"<", b"#")


@dataclass(frozen=True)
class ImportedPolicy:
    """A policy that another program has trained."""

    network: DQNetwork
    origin: Origin
    # What runs the file itself, by a name: it must agree with the network that was read of it.
    runtimes: dict[str, QFunction] = field(default_factory=dict)


def read_policy(path: Path) -> ImportedPolicy:
    """Read an ONNX file, an archive of Stable-Baselines3's DQN or a state dict of torch.

    The content tells which it is. Raises `PolicyFileError`, which names the file and what is wrong
    with it.
    """
    try:
        content = _read(path)
        return _parse(content, path.name)
    except PolicyFileError as error:
        raise PolicyFileError(f"{path}: {error}") from error


def _read(path: Path) -> bytes:
    """Return what is in a regular file that is not too large."""
    try:
        # Non-blocking: a pipe in the file's place must not hold the program.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise PolicyFileError("is no file; give the policy's own file")
            content = file.read(FILE_LIMIT + 1)
    except OSError as error:
        raise PolicyFileError(f"cannot be read ({error.strerror})") from error

    if not content:
        raise PolicyFileError("is empty")
    if len(content) > FILE_LIMIT:
        raise PolicyFileError(
            f"is too large: more than {FILE_LIMIT >> 20} MiB, and a policy has less than one"
        )
    return content


def _parse(content: bytes, file_name: str) -> ImportedPolicy:
    library, runtimes = "", {}
    if content.startswith(LFS):
        raise PolicyFileError("is a pointer of Git LFS, and no policy: git lfs pull fetches it")
    if content.startswith(PICKLE):
        raise PolicyFileError(f"is a pickle, and is not unpickled; {SAVE_IT}")
    if content.startswith(HDF5):
        raise PolicyFileError("is an HDF5 file, as of Keras; export it as ONNX")
    if content.startswith(TEXT):
        raise PolicyFileError("is a text, and no policy")

    if content.startswith(ZIP):
        names = _names(content)
        if POLICY in names:
            kind, (layers, library) = "stable-baselines3", read_sb3(content)
        elif any(name.endswith("data.pkl") for name in names):
            kind, layers = "state-dict", read_state_dict(content)
        else:
            raise PolicyFileError(
                "is a ZIP archive of another program: neither of Stable-Baselines3 nor of torch"
            )
    else:
        onnx = read_onnx(content)
        kind, layers, library = "onnx", onnx.layers, onnx.producer
        runtimes = {"imported file": onnx.q_values}

    origin = Origin(
        file=printable(file_name)[:200],
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        kind=kind,
        library=library or None,
    )
    return ImportedPolicy(network_of(layers), origin, runtimes)


def _names(content: bytes) -> list[str]:
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise PolicyFileError(f"is a ZIP archive that cannot be read ({error})") from error
