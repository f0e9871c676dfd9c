"""Checkpoints: a training run to a folder and back, as safetensors and JSON. Never pickles."""

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save

from training.network import DQNetwork
from training.recipe import Recipe
from training.train import Episode, Run

WEIGHTS = "network.safetensors"
HISTORY = "run.json"


class CheckpointError(Exception):
    """Raised when a folder does not hold a training run that can be read."""


class History(BaseModel):
    """All of a run but its weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    recipe: Recipe
    seed: int
    device: str
    steps: int
    seconds: float
    stopped: Literal["solved", "episodes", "interrupted"]
    states_seen: dict[str, Any]
    episodes: list[Episode]


def write(folder: Path, run: Run) -> None:
    """Write a run. Each file is replaced whole, the history last."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in run.network.state_dict().items()}
    history = History(**{name: getattr(run, name) for name in History.model_fields})
    _replace(folder / WEIGHTS, save(weights))
    _replace(folder / HISTORY, history.model_dump_json().encode())


def read(folder: Path) -> Run:
    """Read a run. Raises `CheckpointError`, which names the file that is missing or broken."""
    path = folder / HISTORY
    try:
        history = History.model_validate_json(path.read_bytes())
        network = DQNetwork(history.recipe.hidden)
        path = folder / WEIGHTS
        network.load_state_dict(load(path.read_bytes()))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); train first with python -m training train") from error
    except (ValidationError, SafetensorError, RuntimeError) as error:  # torch raises RuntimeError for weights of another shape
        raise CheckpointError(f"{path}: not a part of a training run: {error}") from error
    return Run(network=network, **{name: getattr(history, name) for name in History.model_fields})


def _replace(path: Path, content: bytes) -> None:
    beside = path.with_name(f".{path.name}.partial")
    with beside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
