"""Imports files that the real libraries have written, and serves what came of them.

    python -m benchmarks.training.imports

Stable-Baselines3 trains and saves a DQN; CleanRL's network is trained in a plain loop, since it is
no package, and saved as CleanRL does and by torch's ONNX exporter. Each file is imported by the
command; the Q-values that the service's own loader gives are held to those of the library. Files
that must be refused are imported, too.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks.environments import ROOT, environment
from benchmarks.training.cleanrl_peer import train
from models import bundle
from service.inference.loading import load

HERE = Path(__file__).parent
STEPS = 100_000  # of CleanRL's loop


def main() -> None:
    """Write the files, import them and print a table."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        python = environment("sb3", HERE / "sb3.txt") / "bin" / "python"
        alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        program = str(HERE / "sb3_files.py")
        subprocess.run([str(python), program, str(folder)], check=True, env=alone)
        _write_cleanrl(folder)

        print(
            "\n| file | kind | hidden | largest difference in Q | gate | mean of 1,000 episodes |"
        )
        print("| --- | --- | --- | --- | --- | --- |")
        for name in (
            "sb3-dqn.zip",
            "sb3-dqn-state-dict.pth",
            "cleanrl.cleanrl_model",
            "cleanrl.onnx",
        ):
            _import(folder / name)

        print("\n| file | refused because |\n| --- | --- |")
        for file in sorted(folder.glob("refused-*")):
            _refuse(file)


def _write_cleanrl(folder: Path) -> None:
    network = torch.nn.Sequential()
    network.add_module("network", train(0, STEPS))
    torch.save(network.state_dict(), folder / "cleanrl.cleanrl_model")
    torch.onnx.export(
        network,
        (torch.zeros(1, 4),),
        str(folder / "cleanrl.onnx"),
        dynamo=False,  # the other exporter needs onnxscript
        input_names=["observation"],
        output_names=["q"],
        dynamic_axes={"observation": {0: "n"}, "q": {0: "n"}},
    )
    states = np.random.default_rng(0).normal(size=(1_000, 4)).astype(np.float32)
    with torch.no_grad():
        q_values = network(torch.from_numpy(states)).numpy()
    np.savez(folder / "cleanrl.npz", states=states, q_values=q_values)


def _run(file: Path) -> "subprocess.CompletedProcess[str]":
    out = file.with_name(f"bundle-{file.name}")
    words = ["import", str(file), "--out", str(out), "--name", "imported", "--force"]
    return subprocess.run(
        [sys.executable, "-m", "training", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def _import(file: Path) -> None:
    imported = _run(file)
    if imported.returncode:
        sys.exit(imported.stderr)

    written = bundle.read(file.with_name(f"bundle-{file.name}"))
    stem = "sb3-dqn" if file.name.startswith("sb3") else "cleanrl"
    with np.load(file.with_name(f"{stem}.npz")) as arrays:
        states, expected = arrays["states"], arrays["q_values"]
    manifest, differences = written.manifest, []
    for backend in manifest.artifacts:
        q_values = np.array(load(written, backend).decide(states).q_values)
        differences.append(float(np.abs(q_values - expected).max()))
    origin, evaluation = manifest.provenance.origin, manifest.evaluation
    if origin is None or max(differences) > manifest.parity.largest_bound:
        sys.exit(f"{file.name}: the bundle answers otherwise than the library: {differences}")
    print(
        f"| {file.name} | {origin.kind}, {origin.library or 'no library told'}"
        f" | {', '.join(map(str, manifest.network.hidden))} | {max(differences):.2g}"
        f" | {manifest.gate.name} {'passed' if manifest.gate.passed else 'failed'}"
        f" | {evaluation.mean:.1f} |",
        flush=True,
    )


def _refuse(file: Path) -> None:
    refused = _run(file)
    if refused.returncode != 1 or "Traceback" in refused.stderr:
        sys.exit(f"{file.name} was not refused: {refused.stderr}")
    reason = refused.stderr.strip().partition(f"{file.name}: ")[2]
    print(f"| {file.name} | {reason} |", flush=True)


if __name__ == "__main__":
    main()
