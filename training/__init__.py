"""The school: learns a DQN for CartPole-v1, proves it and exports it as a bundle. Knows nothing of the service."""

import os

# From its import on onnxruntime would keep an id of the machine in the home folder, and send reports over the network.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
