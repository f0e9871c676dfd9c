"""A linear-quadratic regulator (LQR), the controller that policies are compared with.

Its action is the sign of its control, since CartPole's motor pushes with one force only.
"""

import functools

import numpy as np
from scipy.linalg import solve_discrete_are

from models.manifest import Plant
from training.envs.plant import STANDARD, total_mass
from training.types import Float32Array, Float64Array, Int64Array

STATE_COST = (1.0, 1.0, 10.0, 1.0)  # of x², v², θ², ω²
FORCE_COST = 0.01  # of N²


@functools.cache
def lqr_gain(plant: Plant = STANDARD) -> Float64Array:
    """Return the feedback gain, (4,), of a plant.

    The plant is linearised at the upright pole and discretised by Euler's rule, as Gymnasium does.
    The gain K = (R + BᵀPB)⁻¹BᵀPA is that of Anderson and Moore 1990, "Optimal Control", chapter 2,
    with P from the discrete algebraic Riccati equation.
    """
    tau, gravity = plant.step_seconds, plant.gravity
    mass = total_mass(plant)
    ratio = plant.pole_mass * plant.half_length / mass
    denominator = plant.half_length * (4 / 3 - plant.pole_mass / mass)

    # x' = Ax + Bu for the state x = (position, velocity, angle, angular velocity) and the force u.
    a = np.eye(4) + tau * np.array(
        [
            [0, 1, 0, 0],
            [0, 0, -ratio * gravity / denominator, 0],
            [0, 0, 0, 1],
            [0, 0, gravity / denominator, 0],
        ]
    )
    b = tau * np.array(
        [[0], [1 / mass + ratio / (mass * denominator)], [0], [-1 / (mass * denominator)]]
    )
    a[:, 1] -= plant.friction * b[:, 0]  # a force against the velocity

    p = solve_discrete_are(a, b, np.diag(STATE_COST), np.array([[FORCE_COST]]))
    gain: Float64Array = np.linalg.solve(FORCE_COST + b.T @ p @ b, b.T @ p @ a)[0]
    return gain


def lqr(states: Float32Array, plant: Plant = STANDARD) -> Int64Array:
    """Return the actions, (n,), in states (n, 4): right where the linear control is positive."""
    return (states @ -lqr_gain(plant) > 0).astype(np.int64)
