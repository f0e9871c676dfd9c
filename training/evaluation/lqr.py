"""The reference: a linear-quadratic regulator with the sign of its control. States in, actions out. Knows nothing of learning."""

import functools

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]

STATE_COST = (1.0, 1.0, 10.0, 1.0)  # of x², v², θ², ω²
FORCE_COST = 0.01  # of N²


@functools.cache
def lqr_gain(
    tau: float = 0.02,
    gravity: float = 9.8,
    cart_mass: float = 1.0,
    pole_mass: float = 0.1,
    half_length: float = 0.5,
) -> Float64Array:
    """Feedback gain (4,) of the nominal plant, linearised upright and discretised by Euler's rule as Gymnasium does.

    The discrete Riccati equation by fixed-point iteration, Anderson and Moore 1990, chapter 2.
    """
    mass = cart_mass + pole_mass
    denominator = half_length * (4 / 3 - pole_mass / mass)
    ratio = pole_mass * half_length / mass
    plant = np.eye(4) + tau * np.array(
        [
            [0, 1, 0, 0],
            [0, 0, -ratio * gravity / denominator, 0],
            [0, 0, 0, 1],
            [0, 0, gravity / denominator, 0],
        ]
    )
    control = tau * np.array(
        [0, 1 / mass + ratio / (mass * denominator), 0, -1 / (mass * denominator)]
    )
    cost = np.diag(STATE_COST)
    value, gain = cost, np.zeros(4)
    for _ in range(10_000):
        before, gain = gain, (control @ value @ plant) / (FORCE_COST + control @ value @ control)
        value = cost + plant.T @ value @ (plant - np.outer(control, gain))
        if np.allclose(gain, before, rtol=1e-12, atol=0):
            break
    return gain


def lqr(states: Float32Array) -> Int64Array:
    """Actions (n,) of states (n, 4): right where the linear control is positive."""
    return (states @ -lqr_gain() > 0).astype(np.int64)
