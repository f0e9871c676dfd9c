"""The service: loads a bundle and answers posted states. It starts where torch is not installed."""

import os

# Once imported, onnxruntime would keep an id of the machine in the home folder and send reports.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
