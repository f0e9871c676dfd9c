"""Reads a state dict of torch: names and tensors, in a ZIP archive, by `weights_only` alone."""

import io
import pickle
import re
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from typing import TypeGuard

import numpy as np
import torch
from torch import Tensor

from training.evaluation.runtimes import PolicyFileError
from training.importing.layers import DenseLayer, check_size
from training.types import Float32Array

ZIP = b"PK\x03\x04"
ENTRIES_LIMIT = 1_000  # files in an archive
SIZE_LIMIT = 64 * 2**20  # bytes of all files of an archive, unpacked
SAVE_IT = "save the state dict alone: torch.save(network.state_dict(), FILE)"
GLOBAL = re.compile(r"GLOBAL (\S+) was not an allowed global")
RECURRENT = re.compile(r"(weight|bias)_(ih|hh)(_l\d+)?(_reverse)?$")


def open_archive(content: bytes) -> zipfile.ZipFile:
    """Open a ZIP archive whose files are few, and small once they are unpacked.

    Raises `PolicyFileError`.
    """
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise PolicyFileError(f"is a ZIP archive that cannot be read ({error})") from error

    entries = archive.infolist()
    if len(entries) > ENTRIES_LIMIT or sum(entry.file_size for entry in entries) > SIZE_LIMIT:
        raise PolicyFileError(
            f"is an archive that is too large: at most {ENTRIES_LIMIT:,} files and"
            f" {SIZE_LIMIT >> 20} MiB in all are read"
        )
    return archive


def read_entry(archive: zipfile.ZipFile, name: str) -> bytes:
    """Return a file of an archive. Raises `PolicyFileError` where it is damaged."""
    try:
        return archive.read(name)
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, ValueError) as error:
        raise PolicyFileError(f"holds {name!r}, which cannot be read ({error})") from error


def read_state_dict(content: bytes) -> list[DenseLayer]:
    """Return the layers of a file that `torch.save` has written, in their order there.

    Raises `PolicyFileError` where it holds anything but the tensors of a plain network.
    """
    if not content.startswith(ZIP):
        raise PolicyFileError(f"is a pickle, and is not unpickled; {SAVE_IT}")
    with open_archive(content) as archive:
        names = archive.namelist()
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        raise PolicyFileError(f"is a TorchScript archive, whose code is not read; {SAVE_IT}")

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of formats that torch deprecates
            loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        match = GLOBAL.search(str(error))
        what = f"a pickled {match[1]}" if match else "a pickle of something else"
        raise PolicyFileError(
            f"holds more than weights ({what}), and is not unpickled; {SAVE_IT}"
        ) from error
    except (RuntimeError, ValueError, TypeError, KeyError, EOFError, MemoryError) as error:
        reason = " ".join(str(error).split())[:200]
        raise PolicyFileError(f"torch cannot read its weights ({reason}); {SAVE_IT}") from error
    return _layers(_without_targets(_tensors(loaded)))


def _tensors(loaded: object) -> dict[str, Tensor]:
    """Return the tensors by name: those of the file, or of the one state dict inside it."""
    if _is_state_dict(loaded):
        return dict(loaded)
    inner = (
        {str(key): value for key, value in loaded.items() if _is_state_dict(value)}
        if isinstance(loaded, Mapping)
        else {}
    )
    if len(inner) == 1:
        return dict(next(iter(inner.values())))
    if inner:
        raise PolicyFileError(
            f"holds several state dicts ({', '.join(sorted(inner))}); save the policy's alone"
        )
    raise PolicyFileError(f"holds a {type(loaded).__name__} without tensors by name; {SAVE_IT}")


def _is_state_dict(value: object) -> TypeGuard[Mapping[str, Tensor]]:
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(name, str) for name in value)
        and all(isinstance(tensor, Tensor) for tensor in value.values())
    )


def _without_targets(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Leave out the target network, which a DQN's state dict may hold beside the online one."""
    online = {name: each for name, each in tensors.items() if "target" not in name}
    return online or tensors


def _layers(tensors: dict[str, Tensor]) -> list[DenseLayer]:
    """Return the layers, each a `weight` and perhaps a `bias` of the same name."""
    for name, tensor in tensors.items():
        _check_parameter(name, tensor)
        check_size(name, tensor.shape)

    layers = []
    for name, tensor in tensors.items():
        layer, _, part = name.rpartition(".")
        prefix = f"{layer}." if layer else ""
        if part == "bias":
            if f"{prefix}weight" not in tensors:
                raise PolicyFileError(f"holds {name!r}, a bias without weights")
            continue
        weight = _to_numpy(tensor)
        bias = tensors.get(f"{prefix}bias")
        zeros: Float32Array = np.zeros(len(weight), np.float32)
        layers.append(DenseLayer(name, weight, zeros if bias is None else _to_numpy(bias)))
    return layers


def _check_parameter(name: str, tensor: Tensor) -> None:
    """Refuse what no fully connected layer has, by name."""
    part, shape = name.rpartition(".")[2], tuple(tensor.shape)
    if RECURRENT.search(part):
        raise PolicyFileError(
            f"holds {name!r}, of a recurrent network; a policy answers a state without memory"
        )
    if part == "weight" and len(shape) > 2:
        raise PolicyFileError(
            f"holds {name!r} of shape {shape}, of an image network; a state has four numbers"
        )
    if (part, len(shape)) not in (("weight", 2), ("bias", 1)):
        raise PolicyFileError(
            f"holds {name!r} of shape {shape}; only fully connected layers can be imported,"
            " with a weight (outputs, inputs) and a bias (outputs,)"
        )
    if tensor.layout != torch.strided or tensor.is_meta or not tensor.is_floating_point():
        raise PolicyFileError(f"holds {name!r} as {tensor.dtype}; expected floating-point numbers")


def _to_numpy(tensor: Tensor) -> Float32Array:
    result: Float32Array = tensor.detach().to(torch.float32).contiguous().numpy()
    return result
