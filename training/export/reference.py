"""The network in 64-bit arithmetic, and how far 32-bit arithmetic may lie from it.

The bound is the running error bound of a dot product of n terms: each of its roundings errs by at
most u = 2⁻²⁴ of its result, so that the sum errs by at most γₙ = n·u / (1 - n·u) times the sum of
the terms' absolute values, in whatever order they are added (Higham, "Accuracy and Stability of
Numerical Algorithms", 2002, chapter 3). It is taken layer by layer: what a layer's inputs may err
by is multiplied by its weights, and ReLU makes no error larger.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.network import DQNetwork
from training.types import Float32Array

UNIT_ROUNDOFF = 2.0**-24  # of 32-bit floats
Float64Array = NDArray[np.float64]
Layer = tuple[Float64Array, Float64Array]  # weights, (outputs, inputs); bias, (outputs,)


@dataclass(frozen=True)
class Reference:
    """Q-values, (n, actions), and the largest error of each that 32-bit rounding explains."""

    q_values: Float64Array
    bounds: Float64Array

    def near_ties(self) -> NDArray[np.bool_]:
        """Return the states, (n,), in which two runtimes may choose different actions."""
        order = np.argsort(self.q_values, axis=1)
        rows = np.arange(len(order))
        best, second = order[:, -1], order[:, -2]
        gap = self.q_values[rows, best] - self.q_values[rows, second]
        near: NDArray[np.bool_] = gap <= self.bounds[rows, best] + self.bounds[rows, second]
        return near


def layers_of(network: DQNetwork) -> list[Layer]:
    """Return the layers of a network, from the input to the output."""
    return [
        (
            layer.weight.detach().cpu().double().numpy(),
            layer.bias.detach().cpu().double().numpy(),
        )
        for layer in network.linear_layers()
    ]


def reference(layers: list[Layer], states: Float32Array) -> Reference:
    """Compute the Q-values of `states`, (n, 4), and their bounds."""
    values = states.astype(np.float64)
    errors = np.zeros_like(values)
    for index, (weight, bias) in enumerate(layers):
        if index:
            # A value that is negative whatever its error becomes zero, without an error.
            errors = np.where(values < -errors, 0, errors)
            values = np.maximum(values, 0)

        magnitudes = (np.abs(values) + errors) @ np.abs(weight).T + np.abs(bias)
        terms = weight.shape[1] + 1  # the products and the bias
        gamma = terms * UNIT_ROUNDOFF / (1 - terms * UNIT_ROUNDOFF)
        errors = errors @ np.abs(weight).T + gamma * magnitudes
        values = values @ weight.T + bias
    return Reference(values, errors)
