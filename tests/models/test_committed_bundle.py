"""The bundle that ships: intact, as good as its manifest says, and explained."""

import numpy as np
import onnx
from onnx import numpy_helper

from models import bundle
from models.bundle import Bundle
from models.manifest import MANIFEST
from training.evaluation.episodes import run_episodes, summarize
from training.evaluation.runtimes import from_onnx, from_torchscript
from training.export import parity
from training.export.model_card import model_card
from training.export.reference import Layer
from training.seeding import EVALUATION_SEEDS


def layers_of_onnx(content: bytes) -> list[Layer]:
    """Return the layers of a model whose initializers are weight and bias in turns."""
    arrays = [
        numpy_helper.to_array(each).astype(np.float64)
        for each in onnx.load_from_string(content).graph.initializer
    ]
    return list(zip(arrays[::2], arrays[1::2], strict=True))


def test_it_scores_500_on_100_episodes_on_starts_of_its_own(committed: Bundle) -> None:
    result = summarize(
        run_episodes(
            from_onnx(committed.artifacts["onnx"]),
            episodes=100,
            seed=EVALUATION_SEEDS.start + 12_345,
        )
    )
    assert result.minimum == 500


def test_its_manifest_says_what_the_file_scores(committed: Bundle) -> None:
    claimed = committed.manifest.evaluation
    found = summarize(
        run_episodes(
            from_onnx(committed.artifacts["onnx"]), episodes=claimed.episodes, seed=claimed.seed
        ),
        claimed.seed,
    )
    assert found == claimed
    assert claimed.episodes >= 1_000


def test_its_onnx_and_torchscript_files_agree(committed: Bundle) -> None:
    values = committed.manifest.state
    low = np.array([value.training_min for value in values], np.float32)
    high = np.array([value.training_max for value in values], np.float32)
    states = np.random.default_rng(0).uniform(low, high, (10_000, 4)).astype(np.float32)
    parity.compare(
        layers_of_onnx(committed.artifacts["onnx"]),
        {
            "onnx": from_onnx(committed.artifacts["onnx"]),
            "torchscript": from_torchscript(committed.artifacts["torchscript"]),
        },
        states,
    )


def test_its_model_card_is_the_one_its_manifest_makes(committed: Bundle) -> None:
    assert (committed.folder / "README.md").read_bytes() == model_card(committed.manifest)


def test_its_folder_holds_the_bundle_and_nothing_else(committed: Bundle) -> None:
    bundle.check_place(committed.folder)
    manifest = committed.manifest
    expected = {
        MANIFEST,
        *(artifact.file for artifact in manifest.artifacts.values()),
        *manifest.extra_files,
    }
    assert {entry.name for entry in committed.folder.iterdir()} == expected
