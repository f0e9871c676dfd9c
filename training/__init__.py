"""Trains a DQN for CartPole-v1, evaluates it and exports it as a bundle.

The packages, from the bottom: `envs`, `evaluation`, then `dqn` and `population` (the two ways of
training), `export`. `train` drives them; `command_line` and `commands` are what a person types.
"""

import os

# From its import on onnxruntime would keep an id of the machine in the home folder, and send
# reports over the network.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
