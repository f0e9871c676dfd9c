import json
from pathlib import Path

import pytest
import torch

from training import checkpoint
from training.checkpoint import CheckpointError
from training.train import Run


def test_a_run_comes_back_as_it_was_kept(short_run: Run, tmp_path: Path) -> None:
    checkpoint.write(tmp_path, short_run)
    again = checkpoint.read(tmp_path)
    for name, tensor in short_run.network.state_dict().items():
        assert torch.equal(tensor, again.network.state_dict()[name])
    assert (again.recipe, again.seed, again.episodes, again.steps) == (
        short_run.recipe,
        short_run.seed,
        short_run.episodes,
        short_run.steps,
    )
    assert (again.stopped, again.states_seen) == (short_run.stopped, short_run.states_seen)


def test_a_missing_run_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere.*run\.json"):
        checkpoint.read(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["run.json", "network.safetensors"])
@pytest.mark.parametrize("content", [b"", b"{", b"\x00" * 100, b"{}", b"[]"])
def test_a_torn_or_foreign_file_is_refused_by_name(short_run: Run, tmp_path: Path, name: str, content: bytes) -> None:
    checkpoint.write(tmp_path, short_run)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=name):
        checkpoint.read(tmp_path)


def test_weights_of_another_shape_are_refused_by_name(short_run: Run, tmp_path: Path) -> None:
    checkpoint.write(tmp_path, short_run)
    history = json.loads((tmp_path / "run.json").read_text())
    history["recipe"]["hidden"] = [32, 32]
    (tmp_path / "run.json").write_text(json.dumps(history))
    with pytest.raises(CheckpointError, match=r"network\.safetensors"):
        checkpoint.read(tmp_path)
