/** Why the policy acts as it does: its Q-values, the state against its ranges, the last ten seconds, the decision surface. */

import { colour, element, fixed, isOpen, setText, Surface } from "./dom.js";
import { ANGLE_LIMIT, POSITION_LIMIT } from "./physics.js";
import { service } from "./service.js";

/**
 * @typedef {import("./physics.js").State} State
 * @typedef {import("./policy_client.js").Answer} Answer
 *
 * @typedef {object} StateValue  of the manifest
 * @property {string} name
 * @property {string} unit
 * @property {number | null} low
 * @property {number | null} high
 * @property {number} training_min
 * @property {number} training_max
 *
 * @typedef {{asked: State, answer: Answer | null, seq: number}} Decision
 *
 * @typedef {object} Sample  one step of the last seconds
 * @property {number} time    s, of the run
 * @property {number} x       m
 * @property {number} theta   rad
 * @property {0 | 1 | null} action
 */

const SHOWN_SECONDS = 10;
const GRID = 41; // states in either direction of the surface
const TEXT_PERIOD = 100; // ms between two figures, so that they can be read
const WIDE_GAP = 3; // in Q, that fills its bar
const AXES = ["position, m", "velocity, m/s", "angle, rad", "angular velocity, rad/s"];
/** Ranges where the manifest is not known. @type {[number, number][]} */
const DEFAULT_RANGES = [[-2.4, 2.4], [-3, 3], [-0.21, 0.21], [-3, 3]];

export class Why {
  constructor() {
    /** @type {StateValue[] | null} */
    this._values = null;
    /** @type {Sample[]} */
    this._samples = [];
    this._textAt = 0;
    this._rows = [...element("state", "table").tBodies[0].rows].map((row) => ({
      row,
      output: /** @type {HTMLOutputElement} */ (row.querySelector("output")),
      seen: /** @type {HTMLElement} */ (row.querySelector(".seen")),
      mark: /** @type {HTMLElement} */ (row.querySelector(".mark")),
      outside: /** @type {HTMLElement} */ (row.querySelector(".outside")),
    }));
    this._history = new Surface(element("history", "canvas"));
  }

  /** @param {StateValue[]} values  of the manifest */
  describe(values) {
    this._values = values;
    values.forEach((value, index) => {
      const [low, high] = this.range(index);
      const { seen } = this._rows[index];
      seen.style.left = `${(100 * (value.training_min - low)) / (high - low)}%`;
      seen.style.width = `${(100 * (value.training_max - value.training_min)) / (high - low)}%`;
    });
  }

  /** What a value's line spans: its bounds, or more than training saw where it has none. @param {number} index @returns {[number, number]} */
  range(index) {
    const value = this._values?.[index];
    if (value === undefined) return DEFAULT_RANGES[index];
    const margin = 0.25 * (value.training_max - value.training_min);
    return [value.low ?? value.training_min - margin, value.high ?? value.training_max + margin];
  }

  /** What the surface spans: what training saw. @param {number} index @returns {[number, number]} */
  seen(index) {
    const value = this._values?.[index];
    return value === undefined ? DEFAULT_RANGES[index] : [value.training_min, value.training_max];
  }

  /** @param {Sample} sample */
  add(sample) {
    this._samples.push(sample);
    while (this._samples[0].time < sample.time - SHOWN_SECONDS) this._samples.shift();
  }

  forget() {
    this._samples = [];
  }

  /** @param {Decision | null} decision @param {number} now */
  draw(decision, now) {
    if (!isOpen("why")) return;
    this._drawHistory();
    if (decision === null) return;
    decision.asked.forEach((value, index) => {
      const [low, high] = this.range(index);
      const share = Math.max(0, Math.min(1, (value - low) / (high - low)));
      this._rows[index].mark.style.left = `${100 * share}%`;
    });
    if (now - this._textAt < TEXT_PERIOD) return;
    this._textAt = now;
    this._write(decision);
  }

  /** @param {Decision} decision */
  _write({ asked, answer, seq }) {
    const table = element("state", "table");
    table.dataset.seq = String(seq);
    table.dataset.state = JSON.stringify(asked);
    asked.forEach((value, index) => setText(this._rows[index].output, fixed(value, 4)));
    if (answer === null) return;
    this._rows.forEach(({ row, outside }, index) => {
      const name = this._values?.[index]?.name;
      const out = name !== undefined && answer.outOfRange.includes(name);
      row.classList.toggle("out", out);
      outside.hidden = !out;
    });

    const [left, right] = answer.qValues;
    const low = Math.min(0, left, right);
    const high = Math.max(low + 1, left, right);
    ["left", "right"].forEach((name, index) => {
      const bar = element(`q-${name}-bar`);
      bar.style.transform = `scaleX(${((answer.qValues[index] - low) / (high - low)).toFixed(4)})`;
      setText(element(`q-${name}`), fixed(answer.qValues[index], 3));
      bar.closest("p")?.classList.toggle("chosen", answer.action === index);
    });
    const share = Math.max(-1, Math.min(1, (right - left) / WIDE_GAP));
    element("gap-bar").className = share > 0 ? "right" : "left";
    element("gap-bar").style.transform = `scaleX(${share.toFixed(4)})`;
    setText(element("action"), answer.action === 1 ? "right" : "left");
    setText(element("gap"), fixed(Math.abs(right - left), 3));
  }

  _drawHistory() {
    const context = this._history.begin();
    if (context === null) return;
    const { width, height } = this._history;
    const edge = 46;
    const strip = (height - 18) / 2.5;
    const last = this._samples.length ? this._samples[this._samples.length - 1].time : 0;
    /** @param {number} time */
    const across = (time) => edge + ((time - last) / SHOWN_SECONDS + 1) * (width - edge - 4);

    this._drawStrip(context, 4, strip - 10, "angle", 18, (ANGLE_LIMIT * 180) / Math.PI, "°", across, (sample) => (sample.theta * 180) / Math.PI);
    this._drawStrip(context, strip + 4, strip - 10, "position", 2.8, POSITION_LIMIT, "m", across, (sample) => sample.x);

    const top = 2 * strip + 6;
    context.fillStyle = colour("muted");
    context.textAlign = "left";
    context.fillText("action", 0, top + 12);
    this._samples.forEach((sample, index) => {
      if (sample.action === null) return;
      const next = this._samples[index + 1]?.time ?? sample.time + 0.02;
      context.fillStyle = colour(sample.action === 1 ? "right" : "left");
      const from = across(sample.time);
      context.fillRect(from, sample.action === 1 ? top : top + 8, Math.max(0.6, across(next) - from), 8);
    });
    context.fillStyle = colour("muted");
    context.textAlign = "right";
    context.fillText("now", width - 2, height - 2);
    context.textAlign = "left";
    context.fillText("−10 s", edge, height - 2);
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {number} top @param {number} height @param {string} name @param {number} largest @param {number} limit @param {string} unit
   * @param {(time: number) => number} across
   * @param {(sample: Sample) => number} value
   */
  _drawStrip(context, top, height, name, largest, limit, unit, across, value) {
    /** @param {number} number */
    const up = (number) => top + height / 2 - (Math.max(-largest, Math.min(largest, number)) / largest) * (height / 2);
    const { width } = this._history;
    context.lineWidth = 1;
    context.textAlign = "left";
    context.fillStyle = colour("muted");
    context.fillText(name, 0, top + height / 2 + 4);
    for (const [at, dash] of /** @type {[number, number[]][]} */ ([[0, []], [limit, [3, 3]], [-limit, [3, 3]]])) {
      context.strokeStyle = colour("line");
      context.setLineDash(dash);
      context.beginPath();
      context.moveTo(46, up(at));
      context.lineTo(width - 4, up(at));
      context.stroke();
    }
    context.setLineDash([]);
    context.fillText(`${limit === POSITION_LIMIT ? limit : Math.round(limit)} ${unit}`, 48, up(limit) - 2);

    context.strokeStyle = colour("ink");
    context.lineWidth = 1.5;
    context.beginPath();
    this._samples.forEach((sample, index) => {
      const x = across(sample.time);
      if (index === 0) context.moveTo(x, up(value(sample)));
      else context.lineTo(x, up(value(sample)));
    });
    context.stroke();
  }
}

/** The action and its gap over two of the four values, by one batch, with the live state on it. */
export class DecisionSurface {
  /** @param {Why} why  knows the ranges */
  constructor(why) {
    this._why = why;
    this._surface = new Surface(element("surface-canvas", "canvas"));
    /** @type {{x: number, y: number, rangeX: [number, number], rangeY: [number, number], image: HTMLCanvasElement} | null} */
    this._drawn = null;
    /** @type {number[]} Q(right) - Q(left), row by row from the top */
    this._gaps = [];
    /** @type {[number, number][]} */
    this._trail = [];
    this._asked = 0;
    this._key = "";
    /** @type {State} */
    this.state = [0, 0, 0, 0];
    for (const name of ["surface-x", "surface-y", "surface-rest"]) {
      element(name, "select").addEventListener("change", () => void this.ask());
    }
    element("surface", "details").addEventListener("toggle", () => {
      if (isOpen("surface") && this._drawn === null) void this.ask();
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this._paint());
  }

  /** Ask for the surface. @param {string} [digest] of the policy; the same one is not asked twice */
  async ask(digest) {
    if (!isOpen("surface") || (digest !== undefined && digest === this._key)) return;
    if (digest !== undefined) this._key = digest;
    const number = ++this._asked;
    const x = Number(element("surface-x", "select").value);
    let y = Number(element("surface-y", "select").value);
    if (x === y) {
      y = (x + 1) % 4;
      element("surface-y", "select").value = String(y);
    }
    const rangeX = this._why.seen(x);
    const rangeY = this._why.seen(y);
    const rest = element("surface-rest", "select").value === "now" ? this.state : [0, 0, 0, 0];
    const states = [];
    for (let row = 0; row < GRID; row += 1) {
      for (let column = 0; column < GRID; column += 1) {
        const state = [...rest];
        state[x] = rangeX[0] + ((rangeX[1] - rangeX[0]) * column) / (GRID - 1);
        state[y] = rangeY[1] - ((rangeY[1] - rangeY[0]) * row) / (GRID - 1);
        states.push(state);
      }
    }
    try {
      const response = await service.fetch("act/batch", { method: "POST", body: JSON.stringify({ states }) });
      const answer = await response.json();
      if (number !== this._asked) return;
      if (!response.ok) throw new Error(answer.detail);
      this._gaps = answer.q_values.map(([left, right]) => right - left);
      this._drawn = { x, y, rangeX, rangeY, image: document.createElement("canvas") };
      this._trail = [];
      this._paint();
      const rights = this._gaps.filter((gap) => gap > 0).length;
      const others = AXES.filter((_, index) => index !== x && index !== y).map((axis) => axis.split(",")[0]);
      setText(element("surface-text"), `${states.length.toLocaleString("en")} states in one batch: right in ${Math.round((100 * rights) / states.length)} %. ` +
        `${others.join(" and ")} ${element("surface-rest", "select").value === "now" ? "as they were" : "at 0"}.`);
    } catch (error) {
      setText(element("surface-text"), `The surface could not be asked: ${error instanceof Error ? error.message : error}`);
    }
  }

  _paint() {
    if (this._drawn === null) return;
    const { image } = this._drawn;
    image.width = image.height = GRID;
    const context = /** @type {CanvasRenderingContext2D} */ (image.getContext("2d"));
    const widest = Math.max(...this._gaps.map(Math.abs)) || 1;
    const back = colour("panel");
    const sides = [colour("left"), colour("right")];
    this._gaps.forEach((gap, index) => {
      const at = /** @type {const} */ ([index % GRID, Math.floor(index / GRID), 1, 1]);
      context.globalAlpha = 1;
      context.fillStyle = back;
      context.fillRect(...at);
      context.globalAlpha = 0.25 + 0.65 * Math.sqrt(Math.abs(gap) / widest);
      context.fillStyle = sides[gap > 0 ? 1 : 0];
      context.fillRect(...at);
    });
  }

  /** @param {State} state */
  draw(state) {
    this.state = state;
    if (!isOpen("surface") || this._drawn === null) return;
    const context = this._surface.begin();
    if (context === null) return;
    const { width, height } = this._surface;
    const { x, y, rangeX, rangeY, image } = this._drawn;
    const area = { left: 44, top: 4, width: width - 50, height: height - 38 };
    context.imageSmoothingEnabled = false;
    context.drawImage(image, area.left, area.top, area.width, area.height);

    context.fillStyle = colour("muted");
    context.textAlign = "center";
    context.fillText(AXES[x], area.left + area.width / 2, height - 4);
    context.textAlign = "left";
    context.fillText(fixed(rangeX[0], 2), area.left, height - 19);
    context.textAlign = "right";
    context.fillText(fixed(rangeX[1], 2), area.left + area.width, height - 19);
    context.fillText(fixed(rangeY[1], 2), area.left - 5, area.top + 10);
    context.fillText(fixed(rangeY[0], 2), area.left - 5, area.top + area.height);
    context.save();
    context.translate(11, area.top + area.height / 2);
    context.rotate(-Math.PI / 2);
    context.textAlign = "center";
    context.fillText(AXES[y], 0, 0);
    context.restore();

    /** @param {number} value @param {[number, number]} range */
    const share = (value, [low, high]) => Math.max(0, Math.min(1, (value - low) / (high - low)));
    this._trail.push([share(state[x], rangeX), share(state[y], rangeY)]);
    if (this._trail.length > 90) this._trail.shift();
    context.strokeStyle = colour("ink");
    context.lineWidth = 1.2;
    context.beginPath();
    for (const [across, up] of this._trail) context.lineTo(area.left + across * area.width, area.top + (1 - up) * area.height);
    context.stroke();
    const [across, up] = this._trail[this._trail.length - 1];
    context.fillStyle = colour("ink");
    context.strokeStyle = colour("panel");
    context.lineWidth = 2;
    context.beginPath();
    context.arc(area.left + across * area.width, area.top + (1 - up) * area.height, 6, 0, 2 * Math.PI);
    context.fill();
    context.stroke();
  }
}
