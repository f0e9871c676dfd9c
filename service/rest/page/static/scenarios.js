/**
 * What a run is under, and the presets: the scenarios of the robustness evaluation, by the manifest's own names
 * (`training/evaluation/robustness.py` has the ranges; a test holds the two lists together). Ranges and steps are those of
 * CartPole-v1; for a policy of another plant they are scaled as the evaluation scales them.
 *
 * @typedef {import("./physics.js").State} State
 * @typedef {import("./physics.js").Plant} Plant
 *
 * @typedef {object} Setting  everything that a link holds
 * @property {string} preset       name of a scenario; empty where the values below were chosen by hand
 * @property {number} seed         of noise, pushes, dropped answers and what a scenario draws
 * @property {number} noise        standard deviation on each value as the policy sees it
 * @property {number} delay        steps between an action and its force
 * @property {number} dropped      share of answers that are thrown away
 * @property {number} force        N
 * @property {number} cartMass     kg
 * @property {number} poleMass     kg
 * @property {number} halfLength   m
 * @property {number} gravity      m/s²
 * @property {number} stepTime     ms
 * @property {number} friction     N·s/m
 * @property {number} push         m/s, each second a uniform draw in ± this
 * @property {number} startRange   half width of the first state's range
 * @property {State | null} start  first state, in place of a draw
 *
 * @typedef {object} Scenario
 * @property {string} name
 * @property {string} meaning
 * @property {number} steps                  a run is survived if nothing fell in so many
 * @property {boolean} [exactly]             of any plant, not as many as last as long
 * @property {[number, number][]} [force]    ranges: one of them, each as likely, for each run
 * @property {[number, number][]} [halfLength]
 * @property {[number, number][]} [poleMass]
 * @property {number} [noise]
 * @property {number} [delay]
 * @property {number} [start]
 * @property {number} [push]
 * @property {number} [dropped]
 */

import { Random } from "./random.js";

const PUSH_SECONDS = 1;

/** CartPole-v1. @type {Readonly<Setting>} */
export const DEFAULT_SETTING = Object.freeze({
  preset: "",
  seed: 1,
  noise: 0,
  delay: 0,
  dropped: 0,
  force: 10,
  cartMass: 1,
  poleMass: 0.1,
  halfLength: 0.5,
  gravity: 9.8,
  stepTime: 20,
  friction: 0,
  push: 0,
  startRange: 0.05,
  start: null,
});

/** The values that may be chosen: least, largest. @type {Record<string, [number, number]>} */
export const LIMITS = Object.freeze({
  seed: [0, 4294967295],
  noise: [0, 0.5],
  delay: [0, 10],
  dropped: [0, 1],
  force: [0.5, 30],
  cartMass: [0.1, 10],
  poleMass: [0.01, 2],
  halfLength: [0.05, 2],
  stepTime: [5, 100],
  push: [0, 3],
  startRange: [0, 0.2],
});

/** What of a setting is the plant's. @type {readonly ("force" | "cartMass" | "poleMass" | "halfLength" | "gravity" | "stepTime" | "friction")[]} */
const PLANT_NAMES = ["force", "cartMass", "poleMass", "halfLength", "gravity", "stepTime", "friction"];

/** @type {readonly Scenario[]} */
export const SCENARIOS = Object.freeze([
  { name: "nominal", meaning: "the plant as it is", steps: 500 },
  { name: "10,000 steps", meaning: "the same, for many more steps", steps: 10000, exactly: true },
  {
    name: "moderate",
    meaning: "another motor, pole length and pole mass for each run",
    steps: 500,
    force: [[5, 15]],
    halfLength: [[0.25, 0.75]],
    poleMass: [[0.05, 0.5]],
  },
  {
    name: "extreme",
    meaning: "motor, length and mass far from what training knew",
    steps: 500,
    force: [[1, 5], [15, 20]],
    halfLength: [[0.05, 0.25], [0.75, 1]],
    poleMass: [[0.01, 0.05], [0.5, 1]],
  },
  { name: "noise 0.01", meaning: "sensors with a little noise", steps: 500, noise: 0.01 },
  { name: "noise 0.05", meaning: "sensors with noise", steps: 500, noise: 0.05 },
  { name: "noise 0.1", meaning: "sensors with much noise", steps: 500, noise: 0.1 },
  { name: "delay 1", meaning: "each action acts a step late", steps: 500, delay: 1 },
  { name: "delay 2", meaning: "each action acts two steps late", steps: 500, delay: 2 },
  { name: "delay 3", meaning: "each action acts three steps late", steps: 500, delay: 3 },
  { name: "start ±0.2", meaning: "starts from far off the middle", steps: 500, start: 0.2 },
  { name: "push 0.5", meaning: "a push of up to 0.5 m/s each second", steps: 500, push: 0.5 },
  { name: "push 1", meaning: "a push of up to 1 m/s each second", steps: 500, push: 1 },
  { name: "push 1.5", meaning: "a push of up to 1.5 m/s each second", steps: 500, push: 1.5 },
  { name: "push 2", meaning: "a push of up to 2 m/s each second", steps: 500, push: 2 },
  { name: "noise 0.15", meaning: "sensors with more noise than signal", steps: 500, noise: 0.15 },
  { name: "delay 4", meaning: "each action acts four steps late", steps: 500, delay: 4 },
  {
    name: "heavy long pole",
    meaning: "a pole up to three times as long and twenty times as heavy",
    steps: 500,
    halfLength: [[0.5, 1.5]],
    poleMass: [[0.5, 2]],
  },
  { name: "40 % dropped", meaning: "two of five actions get lost", steps: 500, dropped: 0.4 },
  {
    name: "noise, delay, pushes",
    meaning: "noise 0.05, two steps late, pushes of up to 0.7 m/s",
    steps: 500,
    noise: 0.05,
    delay: 2,
    push: 0.7,
  },
]);

/**
 * The setting in which nothing disturbs the plant that a policy is for.
 * @param {Record<string, any>} environment  of the policy's manifest; `plant` is missing in older ones
 * @returns {Readonly<Setting>}
 */
export function baseOf({ plant }) {
  if (plant === undefined) return DEFAULT_SETTING;
  return Object.freeze({
    ...DEFAULT_SETTING,
    force: plant.force,
    cartMass: plant.cart_mass,
    poleMass: plant.pole_mass,
    halfLength: plant.half_length,
    gravity: plant.gravity,
    stepTime: Number((plant.step_seconds * 1000).toPrecision(12)),
    friction: plant.friction,
  });
}

/** @param {Setting} one @param {Setting} other  whether both are of the same plant */
export function isSamePlant(one, other) {
  return PLANT_NAMES.every((name) => one[name] === other[name]);
}

/**
 * The range of a slider: so wide that the plant is in it.
 * @param {string} name
 * @param {Setting} base
 * @returns {[number, number]}
 */
export function limitsOf(name, base) {
  const [low, high] = LIMITS[name];
  const value = base[/** @type {"noise"} */ (name)];
  return [Math.min(low, value), Math.max(high, value)];
}

/** How many steps a run of a scenario lasts. @param {Scenario} scenario @param {Setting} base */
export function stepsOf(scenario, base) {
  if (scenario.exactly) return scenario.steps;
  return Math.round((scenario.steps * DEFAULT_SETTING.stepTime) / base.stepTime);
}

/** Steps between two pushes. @param {Setting} setting */
export function pushIntervalOf(setting) {
  return Math.max(1, Math.round((1000 * PUSH_SECONDS) / setting.stepTime));
}

/**
 * The setting of one run of a scenario; what it draws comes from the seed.
 * @param {string} name
 * @param {number} seed
 * @param {Readonly<Setting>} [base]  the plant as it is
 * @returns {Setting}
 */
export function settingOf(name, seed, base = DEFAULT_SETTING) {
  const scenario = SCENARIOS.find((each) => each.name === name);
  if (scenario === undefined) return { ...base, seed };
  const random = new Random(seed);

  /** @param {"force" | "halfLength" | "poleMass"} value */
  const draw = (value) => {
    const ranges = scenario[value];
    if (ranges === undefined) return base[value];
    const [low, high] = ranges[Math.floor(random.next() * ranges.length)];
    return random.uniform(low, high) * (base[value] / DEFAULT_SETTING[value]);
  };

  return {
    ...base,
    preset: name,
    seed,
    force: draw("force"),
    halfLength: draw("halfLength"),
    poleMass: draw("poleMass"),
    noise: scenario.noise ?? 0,
    delay: scenario.delay ?? 0,
    push: scenario.push ?? 0,
    dropped: scenario.dropped ?? 0,
    startRange: scenario.start ?? base.startRange,
  };
}

/** @param {Setting} setting @returns {Plant} */
export function plantOf(setting) {
  return {
    force: setting.force,
    cartMass: setting.cartMass,
    poleMass: setting.poleMass,
    halfLength: setting.halfLength,
    gravity: setting.gravity,
    stepTime: setting.stepTime / 1000,
    friction: setting.friction,
  };
}

/**
 * The part of an address after `#` that restores a setting: what differs from the plant as it is, a scenario by its name.
 * @param {Setting} setting
 * @param {Readonly<Setting>} [plain]  the plant as it is
 */
export function toFragment(setting, plain = DEFAULT_SETTING) {
  const base = settingOf(setting.preset, setting.seed, plain);
  const fields = new URLSearchParams();
  if (setting.preset) fields.set("preset", setting.preset);
  if (setting.seed !== DEFAULT_SETTING.seed) fields.set("seed", String(setting.seed));

  for (const name of /** @type {"noise"[]} */ (Object.keys(LIMITS))) {
    if (setting[name] !== base[name]) fields.set(name, String(setting[name]));
  }
  if (setting.start !== null) fields.set("start", setting.start.join(","));
  return fields.toString();
}

/**
 * The setting that a fragment holds. What is unknown or no number is left out; what is too large is limited.
 * @param {string} fragment  with or without its `#`
 * @param {Readonly<Setting>} [base]  the plant as it is
 * @returns {Setting}
 */
export function fromFragment(fragment, base = DEFAULT_SETTING) {
  const fields = new URLSearchParams(fragment.replace(/^#/, ""));
  const preset = SCENARIOS.some((each) => each.name === fields.get("preset")) ? fields.get("preset") : "";
  const seed = limited("seed", Math.trunc(Number(fields.get("seed") ?? DEFAULT_SETTING.seed)), base);
  /** @type {Setting} */
  const setting = settingOf(preset ?? "", seed ?? DEFAULT_SETTING.seed, base);

  for (const name of Object.keys(LIMITS)) {
    const text = fields.get(name);
    if (name === "seed" || text === null || text.trim() === "") continue;
    const value = limited(name, name === "delay" ? Math.trunc(Number(text)) : Number(text), base);
    if (value !== null) setting[/** @type {"noise"} */ (name)] = value;
  }
  const start = (fields.get("start") ?? "").split(",").map(Number);
  if (fields.has("start") && start.length === 4 && start.every(Number.isFinite)) {
    setting.start = /** @type {State} */ (start.map((value) => Math.max(-10, Math.min(10, value))));
  }
  return setting;
}

/** @param {string} name @param {number} value @param {Setting} base @returns {number | null} */
function limited(name, value, base) {
  if (!Number.isFinite(value)) return null;
  const [low, high] = limitsOf(name, base);
  return Math.max(low, Math.min(high, value));
}
