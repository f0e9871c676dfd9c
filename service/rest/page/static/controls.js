/** The setting's controls: scenarios, sliders, the start state, and the link that holds them all. */

import { element, make, setText } from "./dom.js";
import { baseOf, DEFAULT_SETTING, fromFragment, isSamePlant, limitsOf, SCENARIOS, settingOf, stepsOf, toFragment } from "./scenarios.js";

/** @typedef {import("./scenarios.js").Setting} Setting */

/** @type {[Exclude<keyof Setting, "preset" | "start" | "seed">, string, number, (value: number) => string][]} */
const SLIDERS = [
  ["noise", "Sensor noise, σ", 0.005, (value) => value.toFixed(3)],
  ["delay", "Action delay", 1, (value) => `${value} steps`],
  ["dropped", "Dropped answers", 0.01, (value) => `${Math.round(100 * value)} %`],
  ["push", "Pushes each second", 0.05, (value) => `±${value.toFixed(2)} m/s`],
  ["force", "Force", 0.5, (value) => `${value.toFixed(1)} N`],
  ["cartMass", "Cart mass", 0.1, (value) => `${value.toFixed(1)} kg`],
  ["poleMass", "Pole mass", 0.01, (value) => `${value.toFixed(2)} kg`],
  ["halfLength", "Half length of the pole", 0.01, (value) => `${value.toFixed(2)} m`],
  ["stepTime", "Step time", 1, (value) => `${Number(value.toFixed(1))} ms`],
];

/** @type {[string, number, number, string][]} */
const START_SLIDERS = [
  ["Position", 2.4, 0.05, "m"],
  ["Velocity", 3, 0.05, "m/s"],
  ["Angle", 0.2, 0.005, "rad"],
  ["Angular velocity", 3, 0.05, "rad/s"],
];

export class Controls {
  /** @param {(setting: Setting, begin: boolean) => void} onChange  `begin`: a new run */
  constructor(onChange) {
    this._onChange = onChange;
    /** @type {Readonly<Setting>} the plant that the policy is for, as it is */
    this.base = DEFAULT_SETTING;
    /** @type {Setting} */
    this.setting = fromFragment(location.hash, this.base);
    this._fragment = location.hash; // the visitor's own
    /** @type {Map<string, {row: HTMLElement, input: HTMLInputElement, output: HTMLOutputElement}>} */
    this._sliders = new Map();
    this._buildSliders();
    this._starts = START_SLIDERS.map(([label, largest, step, unit], index) =>
      this._buildSlider(element("start-sliders"), `start-${index}`, label, [-largest, largest], step, (value) => `${value.toFixed(3)} ${unit}`),
    );
    this._listen();
    this.show();
  }

  /** Show a scenario from its beginning. @param {string} name */
  choose(name) {
    this._apply(settingOf(name, this.setting.seed, this.base), true);
  }

  /**
   * Go over to the plant that a policy is for, where it is another one; what a link or the visitor chose stays.
   * @param {Record<string, any>} environment  of its manifest
   */
  followPlant(environment) {
    const base = baseOf(environment);
    if (isSamePlant(base, this.base)) return;
    const chosen = this._fragment || toFragment(this.setting, this.base);
    this.base = base;
    for (const [name, { input }] of this._sliders) {
      const [low, high] = limitsOf(name, base);
      Object.assign(input, { min: String(low), max: String(high) });
    }
    this._apply(fromFragment(chosen, base), true);
  }

  /** The loop has begun a run of its own. @param {Setting} setting */
  follow(setting) {
    this.setting = setting;
    this.show();
  }

  show() {
    const { setting } = this;
    const scenario = SCENARIOS.find((each) => each.name === setting.preset);
    element("preset", "select").value = setting.preset;
    setText(element("preset-text"), scenario === undefined
      ? "Every row of the robustness evaluation can be watched here."
      : `${scenario.meaning}; survived if nothing falls in ${stepsOf(scenario, this.base).toLocaleString("en")} steps.`);
    for (const [name, , , format] of SLIDERS) {
      const slider = this._sliders.get(name);
      if (slider === undefined) continue;
      slider.input.value = String(setting[name]);
      setText(slider.output, format(setting[name]));
      slider.input.setAttribute("aria-valuetext", format(setting[name]));
      slider.row.classList.toggle("changed", setting[name] !== this.base[name]);
    }
    const fragment = toFragment(setting, this.base);
    const address = location.pathname + location.search + (fragment ? `#${fragment}` : "");
    if (address !== location.pathname + location.search + location.hash) history.replaceState(null, "", address);
  }

  /** @param {Setting} setting @param {boolean} begin */
  _apply(setting, begin) {
    this.setting = setting;
    this._fragment = "";
    this.show();
    this._onChange(setting, begin);
  }

  _buildSliders() {
    for (const [name, label, step, format] of SLIDERS) {
      const slider = this._buildSlider(element("sliders"), name, label, limitsOf(name, this.base), step, format);
      this._sliders.set(name, slider);
      slider.input.addEventListener("input", () => {
        this._apply({ ...this.setting, [name]: Number(slider.input.value), preset: "" }, false);
      });
    }
    const select = element("preset", "select");
    for (const { name } of SCENARIOS) select.append(make("option", { value: name }, name));
  }

  /**
   * @param {HTMLElement} parent @param {string} name @param {string} label
   * @param {[number, number]} range @param {number} step @param {(value: number) => string} format
   */
  _buildSlider(parent, name, label, [low, high], step, format) {
    const id = `slider-${name}`;
    const input = make("input", { id, type: "range", min: String(low), max: String(high), step: String(step), value: "0" });
    const output = make("output", { for: id }, format(0));
    const row = make("div", { class: "slider" }, make("label", { for: id }, label), output, input);
    input.addEventListener("input", () => setText(output, format(Number(input.value))));
    parent.append(row);
    return { row, input, output };
  }

  _listen() {
    element("preset", "select").addEventListener("change", (event) => {
      const { value } = /** @type {HTMLSelectElement} */ (event.target);
      this._apply(settingOf(value, this.setting.seed, this.base), true);
    });
    element("nominal").addEventListener("click", () => this._apply({ ...this.base, seed: this.setting.seed }, true));
    element("drop").addEventListener("click", () => {
      const start = /** @type {import("./physics.js").State} */ (this._starts.map(({ input }) => Number(input.value)));
      this._apply({ ...this.setting, start }, true);
    });
    element("start-clear").addEventListener("click", () => this._apply({ ...this.setting, start: null }, true));
    element("copy-link").addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(location.href);
        setText(element("copied"), "Copied.");
      } catch {
        setText(element("copied"), "The link is the page's address.");
      }
      setTimeout(() => setText(element("copied"), ""), 4000);
    });
    addEventListener("hashchange", () => this._apply(fromFragment(location.hash, this.base), true));
  }
}
