"""The desk: loads a bundle and answers posted states. Knows nothing of training, and starts where torch is not installed."""

import os

# From its import on onnxruntime would keep an id of the machine in the home folder, and send reports over the network.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
