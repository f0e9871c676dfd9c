"""The Q-network in torch, and the same network in NumPy for acting."""

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from training.types import Float32Array


class DQNetwork(nn.Module):
    """A fully connected network with ReLU after each hidden layer and a linear output."""

    def __init__(
        self, hidden: tuple[int, ...] = (24, 24), states: int = 4, actions: int = 2
    ) -> None:
        super().__init__()
        self.states, self.hidden, self.actions = states, hidden, actions
        widths = (states, *hidden)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], actions))

    def forward(self, states: Tensor) -> Tensor:
        """Return the Q-values, (batch, actions), of `states`, (batch, 4)."""
        q_values: Tensor = self.layers(states)
        return q_values

    def linear_layers(self) -> list[nn.Linear]:
        """Return the layers that have weights, from the input to the output."""
        return [layer for layer in self.layers if isinstance(layer, nn.Linear)]


class NumpyPolicy:
    """The network as NumPy arrays: acts on one state without torch's overhead for each call.

    On the CPU the arrays share the network's memory and follow every update. On another device
    they are copies, and `refresh` brings them up to date.
    """

    def __init__(self, network: DQNetwork) -> None:
        self._linear = network.linear_layers()
        self._shared = self._linear[0].weight.device.type == "cpu"
        self._layers = self._arrays()

    def refresh(self) -> None:
        """Take over the weights of the latest update."""
        if not self._shared:
            self._layers = self._arrays()

    def q_values(self, states: Float32Array) -> Float32Array:
        """Return the Q-values, (2,) or (batch, 2), of `states`, (4,) or (batch, 4)."""
        hidden = states
        for weight, bias in self._layers[:-1]:
            hidden = np.maximum(hidden @ weight + bias, 0)
        weight, bias = self._layers[-1]
        q_values: Float32Array = hidden @ weight + bias
        return q_values

    def _arrays(self) -> list[tuple[Float32Array, Float32Array]]:
        return [
            (layer.weight.detach().cpu().numpy().T, layer.bias.detach().cpu().numpy())
            for layer in self._linear
        ]


def choose_device(choice: str) -> torch.device:
    """Return the device that `auto`, `cpu` or `cuda` means on this machine.

    Raises `ValueError` where CUDA is asked for and absent.
    """
    available = torch.cuda.is_available()
    if choice == "cuda" and not available:
        raise ValueError(
            "--device cuda: torch finds no CUDA device on this machine; use --device cpu or auto"
        )
    return torch.device("cuda" if choice == "cuda" or (choice == "auto" and available) else "cpu")
