"""Which starts can be saved at all: a search without a policy, and a proof that others are lost.

A start counts as saved when a sequence of actions keeps the pole up and the cart on the
track for 500 steps, and as lost when no sequence does; what is neither stays open.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from models.manifest import Plant
from training.envs.plant import accelerations, arm, steps_of, total_mass
from training.envs.plant import step as step_of
from training.types import BoolArray, Float64Array, Int64Array

STEPS = 500  # of the standard plant; as long for another one
HALF_WIDTHS = (2.4, 3.0, 0.2095, 3.0)  # m, m/s, rad, rad/s: starts are drawn from ± these
X_LIMIT = 2.4  # m
THETA_LIMIT = 12 * 2 * np.pi / 360  # rad

# The search: an action for n₁ steps, the other for n₂, then a controller that never ends. Of
# another plant, that is for as long as so many steps of the standard one.
FIRST_SWITCHES = range(41)
SECOND_SWITCHES = range(0, 41, 2)
LEANS = (0.98, 0.96, 0.94, 0.91, 0.86, 0.8, 0.7)  # largest angle asked for, by the limit
DAMPINGS = (0.1, 0.15, 0.2, 0.3)  # s, weight of the angular velocity beside the angle
PREFIXED = ((0.96, 0.15), (0.91, 0.15))  # leans and dampings that are tried after a prefix
POSITION_GAIN, VELOCITY_GAIN = 0.3, 0.4  # rad asked for by m and m/s off the middle

BOUND_STEPS = 250  # as STEPS
CELLS = 2_000  # of the table of the largest angular velocity that can be braked

Forces = Callable[[Float64Array], BoolArray]  # states (4, n) → whether to push right, (n,)


class UnprovenError(ValueError):
    """Raised for a plant for which the proof that a start is lost does not hold."""


@dataclass(frozen=True)
class Verdicts:
    """What is known of n starts."""

    saved: BoolArray  # (n,)
    lost: BoolArray  # (n,)
    # (n, 4), of the saved starts: first action, its steps, steps of the other one, controller.
    plans: Int64Array


def draw_starts(rng: np.random.Generator, n: int) -> Float64Array:
    """Draw n starts, (n, 4), uniformly from the box."""
    return rng.uniform(-1.0, 1.0, (n, 4)) * HALF_WIDTHS


def judge(plant: Plant, starts: Float64Array) -> Verdicts:
    """Return which of the starts, (n, 4), can be saved, by what plan, and which are lost.

    Of a plant for which the proof does not hold, no start is lost.
    """
    states = np.ascontiguousarray(starts.T)
    try:
        lost = proven_lost(plant, states)
    except UnprovenError:
        lost = np.zeros(len(starts), np.bool_)
    saved, plans = search(plant, states, np.flatnonzero(~lost))
    return Verdicts(saved, lost, plans)


def controllers(plant: Plant) -> list[Forces]:
    """Return the controllers that the search ends with; a plan names one by its place."""
    return [_leaning(plant, lean, damping) for lean in LEANS for damping in DAMPINGS]


def _leaning(plant: Plant, lean: float, damping: float) -> Forces:
    """Lean the pole against the motion of the cart, and no further than it can be caught.

    y = x + 4/3·l·θ moves as if pushed by the angle alone, ÿ ≈ g·θ, whatever the force is. So the
    angle that is asked for brings y to the middle, and the force brings the pole to that angle.
    """
    largest = lean * THETA_LIMIT

    def forces(states: Float64Array) -> BoolArray:
        x, v, theta, omega = states
        y, speed = x + arm(plant) * theta, v + arm(plant) * omega
        wanted = np.clip(-(POSITION_GAIN * y + VELOCITY_GAIN * speed), -largest, largest)
        right: BoolArray = theta - wanted + damping * omega > 0
        return right

    return forces


def inside(states: Float64Array) -> BoolArray:
    """Return in which of the states, (4, n), pole and cart are inside their limits."""
    is_inside: BoolArray = (np.abs(states[0]) <= X_LIMIT) & (np.abs(states[2]) <= THETA_LIMIT)
    return is_inside


def search(
    plant: Plant, states: Float64Array, candidates: Int64Array
) -> tuple[BoolArray, Int64Array]:
    """Look for a plan that saves each of the candidates, indices into the states, (4, n).

    Returns which states are saved, (n,), and the plans, (n, 4).
    """
    saved = np.zeros(states.shape[1], np.bool_)
    plans = np.zeros((states.shape[1], 4), np.int64)

    def note(rows: Int64Array, plan: tuple[int, int, int, int]) -> None:
        saved[rows], plans[rows] = True, plan

    every, stride = controllers(plant), steps_of(plant, 1)
    for number, forces in enumerate(every):
        rows = candidates[~saved[candidates]]
        note(rows[survivors(plant, states[:, rows], forces)], (0, 0, 0, number))

    prefixed = [LEANS.index(lean) * len(DAMPINGS) + DAMPINGS.index(d) for lean, d in PREFIXED]
    for first in (0, 1):
        rows = candidates[~saved[candidates]]
        once = states[:, rows]
        for steps in FIRST_SWITCHES:
            twice, second_rows = once, rows
            for number in SECOND_SWITCHES:
                for controller in prefixed:
                    open_rows = ~saved[second_rows]
                    twice, second_rows = twice[:, open_rows], second_rows[open_rows]
                    survived = survivors(plant, twice, every[controller])
                    plan = (first, steps * stride, number * stride, controller)
                    note(second_rows[survived], plan)
                twice, second_rows = _hold(plant, twice, second_rows, not first, 2 * stride)
            once, rows = _hold(plant, once, rows, bool(first), stride)
    return saved, plans


def _hold(
    plant: Plant, states: Float64Array, rows: Int64Array, right: bool, steps: int
) -> tuple[Float64Array, Int64Array]:
    """Push one way for some steps; returns the states that stay inside, and their rows."""
    for _ in range(steps):
        states = step_of(plant, states, np.full(states.shape[1], right))
        kept = inside(states)
        states, rows = states[:, kept], rows[kept]
    return states, rows


def survivors(plant: Plant, states: Float64Array, forces: Forces) -> BoolArray:
    """Return which of the states, (4, n), a controller keeps inside the limits to the end."""
    survived = np.ones(states.shape[1], np.bool_)
    rows = np.arange(states.shape[1])
    for _ in range(steps_of(plant, STEPS)):
        if not len(rows):
            break
        states = step_of(plant, states, forces(states))
        kept = inside(states)
        survived[rows[~kept]] = False
        states, rows = states[:, kept], rows[kept]
    return survived


def planned_actions(plant: Plant, starts: Float64Array, plans: Int64Array) -> Int64Array:
    """Return the actions, (steps, n), of the plans, (n, 4), from the starts, (n, 4)."""
    states = np.ascontiguousarray(starts.T)
    first, steps, others, number = plans.T
    every = controllers(plant)
    rows = {choice: np.flatnonzero(number == choice) for choice in np.unique(number).tolist()}
    actions = np.zeros((steps_of(plant, STEPS), len(starts)), np.int64)
    for step in range(len(actions)):
        right = np.zeros(len(starts), np.bool_)
        for choice, chosen in rows.items():
            right[chosen] = every[choice](states[:, chosen])
        right = np.where(step < steps + others, first == 0, right)
        right = np.where(step < steps, first == 1, right)
        actions[step] = right
        states = step_of(plant, states, right)
    return actions


def proven_lost(plant: Plant, states: Float64Array) -> BoolArray:
    """Return which of the states, (4, n), no sequence of actions keeps inside the limits.

    The step of (θ, ω) keeps the order of states, and less force to the right gives more ω; so the
    pole of every survivor lies between two that are pushed one way all the time. Nor can it move
    faster than full force can brake before the limit. The point y = x + a·θ, a = 4/3·l, and its
    speed take the steps y′ = y + τẏ and ẏ′ = ẏ + τ(g·tan θ + a·θ̈·(1 - 1/cos θ)), and while the cart
    is on the track θ ≥ (y - 2.4 m)/a. The bounds on θ, put into these steps, bound y on both sides;
    where the bounds on θ contradict each other, the start is lost.

    Raises `UnprovenError` for a plant whose steps do not keep the order, and for one with friction,
    where the pole's steps depend on the cart's, too.
    """
    if plant.friction:
        raise UnprovenError("with friction nothing is proven")
    table = _BrakeTable(plant)
    lost = ~inside(states)
    lower = _Bound(plant, table, states)
    upper = _Bound(plant, table, -states)  # the plant mirrored at x = 0: the bounds from above
    for _ in range(steps_of(plant, BOUND_STEPS)):
        low, high = lower.angle(), -upper.angle()
        lost |= (low > high) | (low > THETA_LIMIT) | (high < -THETA_LIMIT)
        lower.step(low)
        upper.step(-high)
    return lost


class _Bound:
    """Bounds from below on θ, y and ẏ of every survivor, a step at a time."""

    def __init__(self, plant: Plant, table: "_BrakeTable", states: Float64Array) -> None:
        self._plant, self._table = plant, table
        x, v, theta, omega = states
        self._y, self._speed = x + arm(plant) * theta, v + arm(plant) * omega
        self._pushed = theta.copy(), omega.copy()  # the pole, pushed right all the time
        self._theta = theta.copy()

    def angle(self) -> Float64Array:
        """Return the least angle that a survivor can have now."""
        least: Float64Array = np.maximum(self._theta, (self._y - X_LIMIT) / arm(self._plant))
        return least

    def step(self, angle: Float64Array) -> None:
        """Go on a step from the least angle now."""
        plant, table, tau = self._plant, self._table, self._plant.step_seconds
        held = np.clip(angle, -THETA_LIMIT, THETA_LIMIT)
        least_push = plant.gravity * np.tan(held) - table.correction(held)
        self._y, self._speed = self._y + tau * self._speed, self._speed + tau * least_push
        # Far outside nothing changes any more, and numbers must not overflow.
        self._y, self._speed = np.minimum(self._y, 99.0), np.minimum(self._speed, 99.0)

        theta, omega = self._pushed
        _, angular = accelerations(plant, theta, omega, plant.force)
        theta, omega = theta + tau * omega, omega + tau * angular
        outside = theta <= -THETA_LIMIT  # a survivor is not there: the limits are the bound
        theta = np.where(outside, -THETA_LIMIT, np.minimum(theta, 9.0))
        omega = np.where(outside, -table.fastest, np.clip(omega, -table.fastest, table.fastest))
        self._pushed = theta, omega
        self._theta = np.maximum(theta, -table.next_angle(-self._theta))


class _BrakeTable:
    """How fast a survivor's pole can move at most, by its angle."""

    def __init__(self, plant: Plant) -> None:
        self._plant = plant
        self._angles = np.linspace(-THETA_LIMIT, THETA_LIMIT, CELLS + 1)
        speeds = self._largest_speeds()
        self.fastest = float(speeds.max())  # rad/s
        self._check_order()

        # The largest angle a step later, from anywhere in a cell or below it.
        ends = np.append(self._angles[1:], self._angles[-1]) + plant.step_seconds * speeds
        self._next = np.minimum(np.maximum.accumulate(ends), THETA_LIMIT)

    def next_angle(self, theta: Float64Array) -> Float64Array:
        """Return the largest angle that a survivor at θ or below can have a step later."""
        cell = (theta + THETA_LIMIT) / (2 * THETA_LIMIT) * CELLS
        largest: Float64Array = self._next[np.clip(cell, 0, CELLS).astype(np.int64)]
        return largest

    def correction(self, theta: Float64Array) -> Float64Array:
        """Return a bound on |4/3·l·θ̈·(1 - 1/cos θ)|, whatever the force and the speed are."""
        plant, sine = self._plant, np.abs(np.sin(theta))
        moment = plant.pole_mass * plant.half_length
        push = (plant.force + moment * self.fastest**2 * sine) / total_mass(plant)
        leverage = plant.half_length * (4 / 3 - plant.pole_mass / total_mass(plant))
        largest = (plant.gravity * sine + push) / leverage
        correction: Float64Array = arm(plant) * largest * (1 / np.cos(theta) - 1)
        return correction

    def _largest_speeds(self) -> Float64Array:
        """Return the least speed at each angle that full force does not brake, by bisection."""
        plant, tau = self._plant, self._plant.step_seconds
        low, high = np.zeros_like(self._angles), np.full_like(self._angles, 2 * THETA_LIMIT / tau)
        for _ in range(60):
            middle = (low + high) / 2
            theta, omega = self._angles.copy(), middle.copy()
            fallen = np.zeros(len(theta), np.bool_)
            for _ in range(round(2 / tau)):
                _, angular = accelerations(plant, theta, omega, plant.force)
                theta, omega = theta + tau * omega, omega + tau * angular
                fallen |= theta > THETA_LIMIT
                going = ~fallen & (omega > 0)
                theta, omega = np.where(going, theta, 0.0), np.where(going, omega, 0.0)
                if not going.any():
                    break
            low, high = np.where(fallen, low, middle), np.where(fallen, middle, high)
        return high

    def _check_order(self) -> None:
        """Raise `UnprovenError` unless a larger (θ, ω) gives a larger one a step later."""
        plant, tau = self._plant, self._plant.step_seconds
        theta, omega = np.meshgrid(
            np.linspace(-THETA_LIMIT, THETA_LIMIT, 201),
            np.linspace(-self.fastest, self.fastest, 201),
            indexing="ij",
        )
        for force in (-plant.force, plant.force):
            _, angular = accelerations(plant, theta, omega, force)
            if (np.diff(angular, axis=0) < 0).any() or (
                np.diff(omega + tau * angular, axis=1) < 0
            ).any():
                raise UnprovenError("the steps of this plant do not keep the order of its states")
