"""A population of Q-networks in one set of tensors: minibatches in, better weights out. Knows nothing of environments or memory.

K agents share every call but no number: agent k's weights are row k of tensors of shape (K, in, out), its loss is the mean over
its own minibatch, and Adam is elementwise. K = 1 is the ordinary agent through the same code.

The gradient is written out by hand, four lines a layer: at these sizes the time is per-call overhead, and autograd doubles it.
A test holds it to autograd's. All work happens in preallocated tensors with fixed shapes and no branch on data,
so on a GPU `learn` can be captured in one CUDA graph.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from training.network import DQNetwork

Float32Array = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]

ADAM_DECAY = (0.9, 0.999)
ADAM_EPSILON = 1e-8


@dataclass(frozen=True)
class Minibatch:
    """Transitions of every agent, in tensors that stay at their place so that a captured graph reads them."""

    states: Tensor  # (K, batch, 2, 4) float32: state and bootstrap state, side by side
    actions: Tensor  # (K, batch, 1) int64
    rewards: Tensor  # (K, batch, 1) float32: n-step return
    discounts: Tensor  # (K, batch, 1) float32: γⁿ, 0 where the episode terminated

    @classmethod
    def empty(cls, agents: int, size: int, states: int = 4, device: str = "cpu") -> "Minibatch":
        """Zeros of the right shapes on the device."""
        return cls(
            torch.zeros(agents, size, 2, states, device=device),
            torch.zeros(agents, size, 1, dtype=torch.int64, device=device),
            torch.zeros(agents, size, 1, device=device),
            torch.zeros(agents, size, 1, device=device),
        )


class Layers:
    """Weights (K, in, out) and biases (K, 1, out) of every layer: views of one flat tensor."""

    def __init__(self, flat: Tensor, agents: int, shape: tuple[int, ...]) -> None:
        self.flat = flat
        self.weights: list[Tensor] = []
        self.biases: list[Tensor] = []
        start = 0
        for inputs, outputs in pairwise(shape):
            middle, end = start + agents * inputs * outputs, start + agents * (inputs + 1) * outputs
            self.weights.append(flat[start:middle].view(agents, inputs, outputs))
            self.biases.append(flat[middle:end].view(agents, 1, outputs))
            start = end

    def pairs(self) -> list[tuple[Tensor, Tensor]]:
        """Weights and biases, layer by layer."""
        return list(zip(self.weights, self.biases, strict=True))


class Population:
    """K Q-networks, their target copies, one Adam and the running average of the weights."""

    def __init__(
        self,
        agents: int,
        hidden: tuple[int, ...],
        batch: int,
        rng: np.random.Generator,
        *,
        learning_rate: float,
        polyak: float,
        average: float = 0.0,
        huber: float = 1.0,
        advantage: float = 0.0,
        scale: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0),
        actions: int = 2,
        device: str = "cpu",
    ) -> None:
        self.agents, self.hidden, self.shape = agents, hidden, (len(scale), *hidden, actions)
        self._inverse_scale = 1 / torch.tensor(scale, device=device)
        self.polyak, self.average_rate, self.huber, self.advantage = (
            polyak,
            average,
            huber,
            advantage,
        )
        size = sum(agents * (inputs + 1) * outputs for inputs, outputs in pairwise(self.shape))

        def flat() -> Tensor:
            return torch.zeros(size, device=device)

        self.online, self.target, self.gradient = (
            Layers(flat(), agents, self.shape) for _ in range(3)
        )
        self.average = Layers(flat(), agents, self.shape)
        self.first_moment, self.second_moment = flat(), flat()
        self.step = torch.zeros((), device=device)
        self.learning_rate = torch.tensor(learning_rate, device=device)

        for weights, biases in zip(self.online.weights, self.online.biases, strict=True):
            bound = weights.shape[1] ** -0.5  # what torch.nn.Linear starts from
            for values in (weights, biases):
                values.copy_(
                    torch.from_numpy(
                        rng.uniform(-bound, bound, tuple(values.shape)).astype(np.float32)
                    )
                )
        for copy in (self.target, self.average):
            copy.flat.copy_(self.online.flat)

        self.minibatch = Minibatch.empty(agents, batch, len(scale), device)
        self._scaled = torch.zeros_like(self.minibatch.states)
        rows = [torch.zeros(agents, 2 * batch, width, device=device) for width in self.shape[1:]]
        self._hidden, self._q = rows[:-1], rows[-1]
        self._target_hidden, self._target_q = (
            [torch.zeros_like(row) for row in self._hidden],
            torch.zeros_like(self._q),
        )
        rows = [torch.zeros(agents, batch, width, device=device) for width in self.shape[1:]]
        self._hidden_gradient, self._q_gradient = rows[:-1], rows[-1]
        self._best = torch.zeros(agents, batch, 1, dtype=torch.int64, device=device)
        self._goal, self._chosen, self._error = (
            torch.zeros(agents, batch, 1, device=device) for _ in range(3)
        )

    def tensors(self) -> dict[str, Tensor]:
        """All that the next update depends on, but for its minibatch and learning rate."""
        return {
            "online": self.online.flat,
            "target": self.target.flat,
            "average": self.average.flat,
            "first_moment": self.first_moment,
            "second_moment": self.second_moment,
            "step": self.step,
        }

    def learn(self) -> None:
        """One update of every agent from `self.minibatch`.

        Target: r + γⁿ Q⁻(s′, argmax Q(s′)), Double DQN, van Hasselt et al. 2016, eq. 4; less α (max Q⁻(s) - Q⁻(s, a)), advantage learning,
        Bellemare et al. 2016, "Increasing the Action Gap", eq. 7: a step of 20 ms changes a value so little that without it the gap between
        two actions is lost in the error of the network. Loss: Huber, Mnih et al. 2015.
        """
        batch = self.minibatch
        agents, size = batch.actions.shape[:2]
        pairs = torch.mul(batch.states, self._inverse_scale, out=self._scaled).view(
            agents, 2 * size, -1
        )
        q_values = forward(self.online, pairs, self._hidden, self._q).view(agents, size, 2, -1)
        target_q = forward(self.target, pairs, self._target_hidden, self._target_q).view(
            agents, size, 2, -1
        )

        torch.argmax(q_values[:, :, 1], dim=2, keepdim=True, out=self._best)
        torch.gather(target_q[:, :, 1], 2, self._best, out=self._goal)
        torch.addcmul(batch.rewards, batch.discounts, self._goal, out=self._goal)
        if self.advantage:
            torch.gather(target_q[:, :, 0], 2, batch.actions, out=self._chosen)
            torch.amax(target_q[:, :, 0], 2, keepdim=True, out=self._error)
            self._goal.sub_(self._error.sub_(self._chosen), alpha=self.advantage)
        torch.gather(q_values[:, :, 0], 2, batch.actions, out=self._chosen)
        torch.sub(self._chosen, self._goal, out=self._error)

        self._backward()
        self._adam()
        self.target.flat.lerp_(self.online.flat, self.polyak)
        if self.average_rate:
            self.average.flat.lerp_(self.online.flat, self.average_rate)

    def q_values(self, states: Float32Array, layers: Layers | None = None) -> Float32Array:
        """Q-values (K, n, actions) of states (K, n, 4), by the weights `layers`, online unless told; on the CPU without torch's calls."""
        *hidden, (last_weights, last_biases) = self.plain(layers)
        for weights, biases in hidden:
            states = np.matmul(states, weights)
            states += biases
            np.maximum(states, 0, out=states)
        q_values: Float32Array = np.matmul(states, last_weights) + last_biases
        return q_values

    def plain(self, layers: Layers | None = None) -> list[tuple[Float32Array, Float32Array]]:
        """Return weights (K, in, out), biases (K, 1, out) of networks that take states as they are: the first weights hold the scale."""
        pairs = [
            (weights.numpy(force=True), biases.numpy(force=True))
            for weights, biases in (layers or self.online).pairs()
        ]
        (first, biases), *others = pairs
        return [(first * self._inverse_scale.numpy(force=True)[:, None], biases), *others]

    def alive(self) -> int:
        """Return the number of agents whose weights are all finite."""
        finite = torch.stack(
            [part.flatten(1).isfinite().all(dim=1) for pair in self.online.pairs() for part in pair]
        )
        return int(finite.all(dim=0).sum())

    def diagnostics(self) -> dict[str, float]:
        """Return the mean over the agents of the last update's loss, Q-value, action gap and gradient norm."""
        size = self.minibatch.actions.shape[1]
        q_values = self._q.view(self.agents, size, 2, -1)[:, :, 0]
        best = q_values.topk(2, dim=2).values
        norms = (
            torch.stack(
                [
                    part.flatten(1).square().sum(dim=1)
                    for pair in self.gradient.pairs()
                    for part in pair
                ]
            )
            .sum(dim=0)
            .sqrt()
        )
        error = self._error.abs()
        loss = torch.where(error <= 1, 0.5 * error.square(), error - 0.5)  # Huber, δ = 1
        return {
            "loss": float(loss.mean()),
            "q_value": float(q_values.mean()),
            "action_gap": float((best[..., 0] - best[..., 1]).mean()),
            "gradient_norm": float(norms.mean()),
        }

    def act(self, states: Float32Array, epsilon: float, rng: np.random.Generator) -> Int64Array:
        """Epsilon-greedy actions (K · n,) of states (K · n, 4), agent by agent."""
        q_values = self.q_values(states.reshape(self.agents, -1, states.shape[1]))
        greedy = q_values.argmax(axis=2).reshape(-1)
        explore, choice = rng.random((2, len(greedy)))
        actions: Int64Array = np.where(
            explore < epsilon, (choice * q_values.shape[2]).astype(np.int64), greedy
        )
        return actions

    def agent(self, k: int, layers: Layers | None = None) -> DQNetwork:
        """Agent k as a plain network of its own."""
        network = DQNetwork(self.hidden, self.shape[0], self.shape[-1])
        linear = [layer for layer in network.layers if isinstance(layer, torch.nn.Linear)]
        with torch.no_grad():
            for layer, (weights, biases) in zip(linear, self.plain(layers), strict=True):
                layer.weight.copy_(torch.from_numpy(weights[k].T))
                layer.bias.copy_(torch.from_numpy(biases[k, 0]))
        return network

    def _backward(self) -> None:
        """Gradient of each agent's mean Huber loss; its derivative is the error clipped at ±δ."""
        batch = self.minibatch
        agents, size = batch.actions.shape[:2]
        self._chosen.copy_(self._error).clamp_(-self.huber, self.huber).div_(size)
        delta = self._q_gradient.zero_().scatter_(2, batch.actions, self._chosen)
        for layer in reversed(range(len(self.shape) - 1)):
            inputs = (
                self._scaled if layer == 0 else self._hidden[layer - 1].view(agents, size, 2, -1)
            )
            inputs = inputs[:, :, 0]
            torch.bmm(inputs.transpose(1, 2), delta, out=self.gradient.weights[layer])
            torch.sum(delta, 1, keepdim=True, out=self.gradient.biases[layer])
            if layer:
                below = torch.bmm(
                    delta,
                    self.online.weights[layer].transpose(1, 2),
                    out=self._hidden_gradient[layer - 1],
                )
                delta = torch.ops.aten.threshold_backward.grad_input(
                    below, inputs, 0, grad_input=below
                )

    def _adam(self) -> None:
        """One step of Adam, Kingma and Ba 2015, over all weights of all agents in one kernel."""
        self.step.add_(1)
        torch._fused_adam_(
            [self.online.flat],
            [self.gradient.flat],
            [self.first_moment],
            [self.second_moment],
            [],
            [self.step],
            lr=self.learning_rate,
            beta1=ADAM_DECAY[0],
            beta2=ADAM_DECAY[1],
            weight_decay=0.0,
            eps=ADAM_EPSILON,
            amsgrad=False,
            maximize=False,
        )


def captured(population: Population) -> Callable[[], None]:
    """Return `learn` as one CUDA graph, so that an update costs one launch. The population must be on a CUDA device.

    A graph replays addresses, not values: minibatch, weights and learning rate are read anew from the tensors that it was captured with.
    """
    before = {name: tensor.clone() for name, tensor in population.tensors().items()}
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call] # torch declares no types for it
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(
            3
        ):  # the libraries allocate and choose kernels in their first calls, which a graph must not hold
            population.learn()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        population.learn()
    for name, tensor in population.tensors().items():
        tensor.copy_(before[name])
    return graph.replay


def forward(layers: Layers, states: Tensor, hidden: list[Tensor], q_values: Tensor) -> Tensor:
    """Q-values (K, batch, actions) of states (K, batch, 4), written to the tensors given."""
    for weights, biases, row in zip(
        layers.weights, layers.biases, [*hidden, q_values], strict=True
    ):
        states = torch.baddbmm(biases, states, weights, out=row)
        if row is not q_values:
            states.relu_()
    return states
