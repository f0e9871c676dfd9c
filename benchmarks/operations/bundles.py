"""Good and bad relatives of a bundle, as another training or a careless copy would leave them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

from models import bundle
from models.bundle import Bundle
from models.manifest import MANIFEST
from service.inference.backends import Float32Array

Fault = Literal["torn", "byte", "schema", "golden"]
FAULTS: tuple[Fault, ...] = ("torn", "byte", "schema", "golden")

Change = Callable[[Float32Array], Float32Array]


def halved(weights: Float32Array) -> Float32Array:
    """Return what makes all Q-values half as large: other numbers, the same actions."""
    return weights / np.float32(2)


def exchanged(weights: Float32Array) -> Float32Array:
    """Return what gives each action the other one's Q-value: always the other action."""
    return weights[::-1]


def relative(source: Bundle, folder: Path, change: Change, **manifest: object) -> Bundle:
    """Write a good bundle with a changed last layer, and other values in its manifest."""
    model = onnx.load_model_from_string(source.artifacts["onnx"])
    for tensor in model.graph.initializer[-2:]:  # weight and bias of the last layer
        changed = np.ascontiguousarray(change(numpy_helper.to_array(tensor)), np.float32)
        tensor.CopyFrom(numpy_helper.from_array(changed, tensor.name))
    content = model.SerializeToString()
    states = np.array([golden.state for golden in source.manifest.golden_states], np.float32)
    q_values = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]).run(
        ["q_values"], {"state": states}
    )[0]
    found = source.manifest.model_copy(
        update={
            "artifacts": {"onnx": bundle.describe("policy.onnx", content)},
            "extra_files": (),
            "golden_states": tuple(
                golden.model_copy(update={"q_values": tuple(row)})
                for golden, row in zip(
                    source.manifest.golden_states, q_values.tolist(), strict=True
                )
            ),
            **manifest,
        }
    )
    return bundle.write(folder, found, {"policy.onnx": content})


def spoiled(source: Path, folder: Path, fault: Fault) -> None:
    """Write a copy of a bundle's folder that must not be served."""
    shutil.copytree(source, folder)
    model, manifest = folder / "policy.onnx", folder / MANIFEST
    match fault:
        case "torn":
            model.write_bytes(model.read_bytes()[:-1000])
        case "byte":
            content = bytearray(model.read_bytes())
            content[len(content) // 2] ^= 1
            model.write_bytes(content)
        case "schema":
            described = json.loads(manifest.read_text())
            described["state"][0]["name"] = "cart_place"
            manifest.write_text(json.dumps(described))
        case "golden":
            described = json.loads(manifest.read_text())
            described["golden_states"][-1]["q_values"][0] += 0.1
            manifest.write_text(json.dumps(described))
