/**
 * The cart with its pole: the equations, constants and integrator of Gymnasium's CartPole, and friction
 * (`gymnasium/envs/classic_control/cartpole.py`, after https://coneural.org/florian/papers/05_cart_pole.pdf).
 * A test runs this module against Gymnasium; the terms stay in Gymnasium's order, so that they round alike.
 *
 * @typedef {[number, number, number, number]} State  position m, velocity m/s, angle rad, angular velocity rad/s
 *
 * @typedef {object} Plant
 * @property {number} force       N, of the motor in either direction
 * @property {number} cartMass    kg
 * @property {number} poleMass    kg
 * @property {number} halfLength  m, half of the pole's length
 * @property {number} gravity     m/s²
 * @property {number} stepTime    s, between two states
 * @property {number} friction    N·s/m, what brakes the cart by its velocity
 *
 * @typedef {"euler" | "semi-implicit"} Integrator  Gymnasium's `kinematics_integrator`
 */

/** CartPole-v1. @type {Readonly<Plant>} */
export const NOMINAL_PLANT = Object.freeze({
  force: 10,
  cartMass: 1,
  poleMass: 0.1,
  halfLength: 0.5,
  gravity: 9.8,
  stepTime: 0.02,
  friction: 0,
});

export const POSITION_LIMIT = 2.4; // m
export const ANGLE_LIMIT = (12 * 2 * Math.PI) / 360; // rad

/**
 * The state one step later, under a force on the cart.
 * @param {State} state
 * @param {number} force  N, to the right; 0 where nobody controls
 * @param {Plant} plant
 * @param {Integrator} [integrator]
 * @returns {State}
 */
export function step(state, force, plant, integrator = "euler") {
  let [x, xDot, theta, thetaDot] = state;
  const totalMass = plant.poleMass + plant.cartMass;
  const poleMassLength = plant.poleMass * plant.halfLength;
  const cosine = Math.cos(theta);
  const sine = Math.sin(theta);

  const braked = force - plant.friction * xDot;
  const temp = (braked + poleMassLength * (thetaDot * thetaDot) * sine) / totalMass;
  const thetaAcc =
    (plant.gravity * sine - cosine * temp) /
    (plant.halfLength * (4 / 3 - (plant.poleMass * (cosine * cosine)) / totalMass));
  const xAcc = temp - (poleMassLength * thetaAcc * cosine) / totalMass;

  const tau = plant.stepTime;
  if (integrator === "euler") {
    x = x + tau * xDot;
    xDot = xDot + tau * xAcc;
    theta = theta + tau * thetaDot;
    thetaDot = thetaDot + tau * thetaAcc;
  } else {
    xDot = xDot + tau * xAcc;
    x = x + tau * xDot;
    thetaDot = thetaDot + tau * thetaAcc;
    theta = theta + tau * thetaDot;
  }
  return [x, xDot, theta, thetaDot];
}

/**
 * Whether an episode of CartPole-v1 ends in this state: the pole or the cart is lost.
 * @param {State} state
 */
export function hasFallen([x, , theta]) {
  return x < -POSITION_LIMIT || x > POSITION_LIMIT || theta < -ANGLE_LIMIT || theta > ANGLE_LIMIT;
}
