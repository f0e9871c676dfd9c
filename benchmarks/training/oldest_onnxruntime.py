"""Whether the committed policy answers in the oldest onnxruntime, to the tolerance of its bundle.

    python -m benchmarks.training.oldest_onnxruntime

Installs the oldest wheel that there is for Python 3.11 into an environment of its own.
"""

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.environments import ROOT, environment

REQUIREMENTS = Path(__file__).with_name("oldest_onnxruntime.txt")
BUNDLE = ROOT / "models" / "cartpole-dqn"
PROGRAM = """
import json, sys
import numpy, onnxruntime

golden_states = json.load(open(sys.argv[2]))["golden_states"]
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
states = numpy.array([each["state"] for each in golden_states], numpy.float32)
[q_values] = session.run(["q_values"], {"state": states})
expected = numpy.array([each["q_values"] for each in golden_states])
tolerance = numpy.array([[each["tolerance"]] for each in golden_states])
error = numpy.abs(q_values - expected)
assert (error <= tolerance).all(), error.max()
print(json.dumps([onnxruntime.__version__, float(error.max()), float(tolerance.min())]))
"""


def main() -> None:
    """Ask it, and print what came."""
    folder = environment("oldest-onnxruntime", REQUIREMENTS)
    command = [str(folder / "bin" / "python"), "-c", PROGRAM]
    files = [str(BUNDLE / "policy.onnx"), str(BUNDLE / "manifest.json")]
    result = subprocess.run([*command, *files], capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(result.stderr.strip().splitlines()[-1])
    release, error, tolerance = json.loads(result.stdout)
    print(
        f"onnxruntime {release}: all golden states within {error:.2g}; the least tolerance is"
        f" {tolerance:.2g}"
    )


if __name__ == "__main__":
    main()
