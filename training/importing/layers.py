"""The layers that were read from a file, and the network that they make."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from training.evaluation.runtimes import PolicyFileError
from training.network import DQNetwork
from training.types import Float32Array

STATE_SIZE, ACTIONS = 4, 2
LAYERS_LIMIT = 50
WEIGHTS_LIMIT = 2_000_000  # the evaluation of so many takes minutes


@dataclass(frozen=True)
class DenseLayer:
    """A fully connected layer, by its name in the file."""

    name: str
    weight: Float32Array  # (outputs, inputs)
    bias: Float32Array  # (outputs,)


def check_size(name: str, shape: Sequence[int]) -> None:
    """Check a weight's size before it is read. Raises `PolicyFileError`."""
    count = 1
    for length in shape:
        count *= length
    if count > WEIGHTS_LIMIT:
        raise PolicyFileError(
            f"{name!r} is too large: {count:,} weights, and a policy may have"
            f" {WEIGHTS_LIMIT:,} in all"
        )


def network_of(layers: Sequence[DenseLayer]) -> DQNetwork:
    """Return the network of some layers, with ReLU between two of them.

    Raises `PolicyFileError` where they are not a chain from 4 state values to 2 Q-values.
    """
    if not layers:
        raise PolicyFileError("holds no layer with weights")
    if len(layers) > LAYERS_LIMIT:
        raise PolicyFileError(f"has {len(layers)} layers; a policy may have {LAYERS_LIMIT}")
    weights = sum(layer.weight.size + layer.bias.size for layer in layers)
    if weights > WEIGHTS_LIMIT:
        raise PolicyFileError(
            f"is too large: it has {weights:,} weights, and a policy may have {WEIGHTS_LIMIT:,}"
        )

    _check_chain(layers)
    network = DQNetwork(tuple(len(layer.bias) for layer in layers[:-1]), STATE_SIZE, ACTIONS)
    with torch.no_grad():
        for linear, layer in zip(network.linear_layers(), layers, strict=True):
            linear.weight.copy_(torch.tensor(layer.weight))
            linear.bias.copy_(torch.tensor(layer.bias))
    return network


def _check_chain(layers: Sequence[DenseLayer]) -> None:
    inputs = STATE_SIZE
    for index, layer in enumerate(layers):
        outputs, found = layer.weight.shape
        if found != inputs:
            giver = f"{layers[index - 1].name!r} gives" if index else "a state has"
            raise PolicyFileError(
                f"{layer.name!r} takes {found} values, but {giver} {inputs}: only a plain chain of"
                " layers can be imported, and none with several heads"
            )
        if layer.bias.shape != (outputs,):
            raise PolicyFileError(
                f"{layer.name!r} has {outputs} outputs and a bias of shape {layer.bias.shape}"
            )
        if not (np.isfinite(layer.weight).all() and np.isfinite(layer.bias).all()):
            raise PolicyFileError(f"{layer.name!r} has weights that are no finite 32-bit numbers")
        inputs = outputs

    if inputs != ACTIONS:
        raise PolicyFileError(
            f"{layers[-1].name!r} gives {inputs} values, expected {ACTIONS}: a Q-value for each"
            " action, left and right"
        )
