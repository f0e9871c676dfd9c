"""The physics of one plant, for many states at once: Gymnasium's equations, and friction."""

import numpy as np

from models.manifest import Plant
from training.types import BoolArray, Float64Array

STANDARD = Plant()  # of CartPole-v1


def time_ratio(plant: Plant) -> float:
    """Return how long a step of the plant is, in steps of the standard plant."""
    return plant.step_seconds / STANDARD.step_seconds


def steps_of(plant: Plant, standard_steps: int) -> int:
    """Return how many steps of the plant last as long as some of the standard plant."""
    return max(1, round(standard_steps / time_ratio(plant)))


def total_mass(plant: Plant) -> float:
    """Return the mass of cart and pole, kg."""
    return plant.cart_mass + plant.pole_mass


def arm(plant: Plant) -> float:
    """Return 4/3 of the half length, m: the point of the pole that no force moves at once."""
    return 4 / 3 * plant.half_length


def accelerations(
    plant: Plant, theta: Float64Array, omega: Float64Array, force: Float64Array | float
) -> tuple[Float64Array, Float64Array]:
    """Return the accelerations of cart and angle, as Gymnasium computes them."""
    sine, cosine = np.sin(theta), np.cos(theta)
    moment = plant.pole_mass * plant.half_length
    push = (force + moment * omega**2 * sine) / total_mass(plant)
    angular = (plant.gravity * sine - cosine * push) / (
        plant.half_length * (4 / 3 - plant.pole_mass * cosine**2 / total_mass(plant))
    )
    return push - moment * angular * cosine / total_mass(plant), angular


def step(plant: Plant, states: Float64Array, right: BoolArray) -> Float64Array:
    """Return the states, (4, n), a step later: Euler's rule, as in Gymnasium."""
    x, v, theta, omega = states
    force = np.where(right, plant.force, -plant.force) - plant.friction * v
    cart, angular = accelerations(plant, theta, omega, force)
    tau = plant.step_seconds
    return np.stack([x + tau * v, v + tau * cart, theta + tau * omega, omega + tau * angular])
