"""K Q-networks in one set of tensors.

Agent k's weights are row k of tensors of shape (K, in, out), so that one call computes all agents;
at these sizes the time is the overhead of calls. No number of one agent depends on another's, and
K = 1 is the ordinary agent through the same code.
"""

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from training.network import DQNetwork
from training.population.numpy_layers import NumpyLayers, limited, q_values_of
from training.snapshot import Snapshot
from training.types import Float32Array, Int64Array


class StackedLayers:
    """Weights (K, in, out) and biases (K, 1, out) of every layer: views of one flat tensor."""

    def __init__(self, flat: Tensor, agents: int, widths: tuple[int, ...]) -> None:
        self.flat = flat
        self.weights: list[Tensor] = []
        self.biases: list[Tensor] = []
        start = 0
        for inputs, outputs in pairwise(widths):
            middle, end = start + agents * inputs * outputs, start + agents * (inputs + 1) * outputs
            self.weights.append(flat[start:middle].view(agents, inputs, outputs))
            self.biases.append(flat[middle:end].view(agents, 1, outputs))
            start = end

    def pairs(self) -> list[tuple[Tensor, Tensor]]:
        """Return weights and biases, layer by layer."""
        return list(zip(self.weights, self.biases, strict=True))

    def by_agent(self) -> list[Tensor]:
        """Return each tensor of weights or biases as (K, values)."""
        return [tensor.flatten(1) for pair in self.pairs() for tensor in pair]


class StackedQNetworks:
    """K Q-networks, their target copies and the moving average of their weights.

    `scale` are the values of the state that count as 1 in learning, and `limits` those beyond which
    a state counts as if it lay at the limit. The networks that leave this class take states as they
    are: their first weights hold the scale, and a layer of two units a value before them holds the
    limits.
    """

    def __init__(
        self,
        agents: int,
        hidden: tuple[int, ...],
        rng: np.random.Generator,
        *,
        scale: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0),
        limits: tuple[float, ...] | None = None,
        actions: int = 2,
        device: str = "cpu",
    ) -> None:
        self.agents, self.hidden, self.device = agents, hidden, device
        self.widths = (len(scale), *hidden, actions)
        self.inverse_scale = 1 / torch.tensor(scale, device=device)
        self.limits = None if limits is None else torch.tensor(limits, device=device)
        self.online, self.target, self.average = (self.new_layers() for _ in range(3))

        for weights, biases in self.online.pairs():
            bound = weights.shape[1] ** -0.5  # what torch.nn.Linear starts from
            for tensor in (weights, biases):
                values = rng.uniform(-bound, bound, tuple(tensor.shape)).astype(np.float32)
                tensor.copy_(torch.from_numpy(values))
        for copy in (self.target, self.average):
            copy.flat.copy_(self.online.flat)

    def new_layers(self) -> StackedLayers:
        """Return layers of the same shapes, all zero."""
        sizes = ((inputs + 1) * outputs for inputs, outputs in pairwise(self.widths))
        flat = torch.zeros(self.agents * sum(sizes), device=self.device)
        return StackedLayers(flat, self.agents, self.widths)

    def q_values(self, states: Float32Array, layers: StackedLayers | None = None) -> Float32Array:
        """Return the Q-values, (K, n, actions), of states (K, n, 4), computed by NumPy.

        `layers` are the weights to use, the online ones by default.
        """
        return q_values_of(self.to_numpy(layers), states)

    def act(self, states: Float32Array, epsilon: float, rng: np.random.Generator) -> Int64Array:
        """Return ε-greedy actions, (K · n,), in states (K · n, 4), agent by agent."""
        states = states.reshape(self.agents, -1, states.shape[1])
        if self.limits is not None:
            # At each step a clip costs less than the layer that does it in an exported network.
            ends = self.limits.numpy(force=True)
            states = np.clip(states, -ends, ends)
        q_values = q_values_of(self._unlimited(), states)
        greedy = q_values.argmax(axis=2).reshape(-1)
        explore, choice = rng.random((2, len(greedy)))
        random_actions = (choice * q_values.shape[2]).astype(np.int64)
        actions: Int64Array = np.where(explore < epsilon, random_actions, greedy)
        return actions

    def to_numpy(self, layers: StackedLayers | None = None) -> NumpyLayers:
        """Return weights and biases of networks that take states as they are."""
        (first, biases), *others = self._unlimited(layers)
        if self.limits is None:
            return [(first, biases), *others]
        return [*limited(first, biases, self.limits.numpy(force=True)), *others]

    @property
    def exported_hidden(self) -> tuple[int, ...]:
        """Units of each hidden layer of an agent as a network of its own."""
        return self.hidden if self.limits is None else (2 * len(self.limits), *self.hidden)

    def agent(self, k: int, layers: StackedLayers | None = None) -> DQNetwork:
        """Return agent k as a network of its own."""
        return network_of(self.to_numpy(layers), k)

    def _unlimited(self, layers: StackedLayers | None = None) -> NumpyLayers:
        """Return weights and biases without the layer that limits the states."""
        (first, biases), *others = [
            (weights.numpy(force=True), biases.numpy(force=True))
            for weights, biases in (layers or self.online).pairs()
        ]
        return [(first * self.inverse_scale.numpy(force=True)[:, None], biases), *others]

    def count_finite(self) -> int:
        """Return the number of agents whose weights are all finite."""
        finite = [tensor.isfinite().all(dim=1) for tensor in self.online.by_agent()]
        return int(torch.stack(finite).all(dim=0).sum())

    def snapshot(self) -> Snapshot:
        """Return all weights."""
        return Snapshot({name: tensor.numpy(force=True) for name, tensor in self.tensors().items()})

    def restore(self, snapshot: Snapshot) -> None:
        """Take over the weights of a snapshot."""
        for name, tensor in self.tensors().items():
            tensor.copy_(torch.from_numpy(snapshot.arrays[name].copy()))

    def tensors(self) -> dict[str, Tensor]:
        """Return the flat tensors of all weights, by name."""
        return {
            "online": self.online.flat,
            "target": self.target.flat,
            "average": self.average.flat,
        }


def network_of(layers: NumpyLayers, agent: int) -> DQNetwork:
    """Return one of K agents as a network of its own."""
    inputs, *hidden = (weights.shape[1] for weights, _ in layers)
    network = DQNetwork(tuple(hidden), inputs, layers[-1][0].shape[2])
    with torch.no_grad():
        for layer, (weights, biases) in zip(network.linear_layers(), layers, strict=True):
            layer.weight.copy_(torch.from_numpy(weights[agent].T))
            layer.bias.copy_(torch.from_numpy(biases[agent, 0]))
    return network


def forward(layers: StackedLayers, states: Tensor, hidden: list[Tensor], q_values: Tensor) -> None:
    """Write the Q-values, (K, batch, actions), of states (K, batch, 4) to `q_values`.

    `hidden` takes the outputs of the hidden layers, which the gradient needs.
    """
    *hidden_pairs, (last_weights, last_biases) = layers.pairs()
    for (weights, biases), row in zip(hidden_pairs, hidden, strict=True):
        states = torch.baddbmm(biases, states, weights, out=row).relu_()
    torch.baddbmm(last_biases, states, last_weights, out=q_values)
