/** A cart under a setting: what lies between plant and policy (noise, delay, pushes), in the order in which the evaluation has it. */

import { hasFallen, step } from "./physics.js";
import { Random } from "./random.js";
import { plantOf, pushIntervalOf } from "./scenarios.js";

/**
 * @typedef {import("./physics.js").State} State
 * @typedef {import("./scenarios.js").Setting} Setting
 * @typedef {0 | 1 | null} Action  0 left, 1 right, null where nobody controls
 */

const LONGEST_DELAY = 10; // steps

export class Simulation {
  /** @param {Setting} setting */
  constructor(setting) {
    this.setting = setting;
    /** @type {State} */
    this.state = [0, 0, 0, 0];
    this.steps = 0; // survived in this run
    this.fallen = false;
    /** @type {Action[]} what was decided 0, 1, 2 … steps ago */
    this.decided = [];
    /** @type {Action} what acts on the cart now */
    this.applied = null;
    this.begin(setting);
  }

  /**
   * Begin a run: its first state, its random numbers and the actions that are still on their way.
   * @param {Setting} setting
   * @param {State | null} [start]  in place of the setting's
   */
  begin(setting, start = setting.start) {
    this.setting = setting;
    const draws = new Random(setting.seed ^ 0x5eed);
    this._noise = new Random(setting.seed ^ 0x0a01);
    this._pushes = new Random(setting.seed ^ 0x0b02);

    const drawn = [0, 1, 2, 3].map(() => draws.uniform(-setting.startRange, setting.startRange));
    this.state = /** @type {State} */ (start === null ? drawn : [...start]);
    this.decided = Array.from({ length: LONGEST_DELAY + 1 }, () => (draws.next() < 0.5 ? 0 : 1));
    this.applied = null;
    this.steps = 0;
    this.fallen = hasFallen(this.state);
  }

  /** The state as the policy sees it. @returns {State} */
  observe() {
    const { noise } = this.setting;
    if (noise === 0 || this._noise === undefined) return [...this.state];
    const random = this._noise;
    return /** @type {State} */ (this.state.map((value) => value + noise * random.normal()));
  }

  /**
   * One step under what was decided for it.
   * @param {Action} action
   */
  move(action) {
    this.decided = [action, ...this.decided.slice(0, LONGEST_DELAY)];
    this.applied = this.decided[this.setting.delay];
    this._step(this.applied);
    this.steps += this.fallen ? 0 : 1;

    if (this.setting.push > 0 && this.steps % pushIntervalOf(this.setting) === 0 && this._pushes !== undefined) {
      this.push(this._pushes.uniform(-this.setting.push, this.setting.push));
    }
  }

  /** One step of a pole that has fallen: it comes to lie. */
  settle() {
    if (Math.abs(this.state[2]) >= Math.PI / 2) {
      this.state = [this.state[0], 0, Math.sign(this.state[2]) * (Math.PI / 2), 0];
      return;
    }
    this._step(null);
  }

  /** @param {number} change  of the cart's velocity, m/s */
  push(change) {
    this.state = [this.state[0], this.state[1] + change, this.state[2], this.state[3]];
  }

  /** @param {Action} action */
  _step(action) {
    const plant = plantOf(this.setting);
    const force = action === null ? 0 : action === 1 ? plant.force : -plant.force;
    this.state = step(this.state, force, plant);
    this.fallen ||= hasFallen(this.state);
  }
}
