"""K Q-networks as NumPy arrays: what acts and is validated, without torch."""

import numpy as np

from training.types import Controller, Float32Array, Int64Array

NumpyLayers = list[tuple[Float32Array, Float32Array]]  # weights (K, in, out), biases (K, 1, out)

ROWS = 1_024  # of an agent at once: what the layers give for more does not stay in the cache


def limited(first: Float32Array, biases: Float32Array, limits: Float32Array) -> NumpyLayers:
    """Return the first layer of K networks, and one before it that limits the state.

    A value s limited to ± L is relu(s + L) - relu(s - L) - L: sums and ReLU, as all of the network.
    """
    identity = np.eye(len(limits), dtype=np.float32)
    ends = np.concatenate([limits, -limits])
    agents = len(first)
    clip = (
        np.tile(np.concatenate([identity, identity], axis=1), (agents, 1, 1)),
        np.tile(ends, (agents, 1, 1)),
    )
    offsets = (limits[:, None] * first).sum(axis=1, keepdims=True)
    return [clip, (np.concatenate([first, -first], axis=1), biases - offsets)]


def q_values_of(layers: NumpyLayers, states: Float32Array) -> Float32Array:
    """Return the Q-values, (K, n, actions), of states (K, n, 4)."""
    starts = range(0, states.shape[1], ROWS)
    if len(starts) == 1:
        return _q_values_of_rows(layers, states)
    rows = [_q_values_of_rows(layers, states[:, start : start + ROWS]) for start in starts]
    return np.concatenate(rows, axis=1)


def _q_values_of_rows(layers: NumpyLayers, states: Float32Array) -> Float32Array:
    *hidden, (last_weights, last_biases) = layers
    for weights, biases in hidden:
        states = np.matmul(states, weights)
        states += biases
        np.maximum(states, 0, out=states)
    q_values: Float32Array = np.matmul(states, last_weights) + last_biases
    return q_values


def greedy_controller(layers: NumpyLayers) -> Controller:
    """Return the greedy policies of K agents, as one function.

    It takes states (K · n, 4), agent by agent, and returns actions (K · n,): the first at a tie.
    """
    agents = len(layers[0][0])

    def act(states: Float32Array) -> Int64Array:
        q_values = q_values_of(layers, states.reshape(agents, -1, states.shape[1]))
        actions: Int64Array = q_values.argmax(axis=2).reshape(-1)
        return actions

    return act
