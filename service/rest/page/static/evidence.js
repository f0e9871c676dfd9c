/** What is known of the policy: the manifest, and the files that the bundle holds for people. */

import { colour, element, isOpen, make, Surface } from "./dom.js";
import { service } from "./service.js";
import { baseOf, DEFAULT_SETTING, isSamePlant, SCENARIOS } from "./scenarios.js";
import { wilson } from "./statistics.js";

/**
 * @typedef {object} ScenarioResult
 * @property {string} name
 * @property {number} steps
 * @property {number} episodes
 * @property {number} success_rate
 * @property {number} lqr_success_rate
 */

const PICTURES = /\.(png|gif)$/;
const SVG = "http://www.w3.org/2000/svg";
const LOWEST_SHOWN = 0.9; // of the axis of intervals, unless a rate is lower

export class Evidence {
  /** @param {(name: string) => void} watch  shows a scenario */
  constructor(watch) {
    this._watch = watch;
    /** @type {Record<string, any> | null} */
    this._model = null;
    this._filesRead = false;
    /** @type {number[][]} */
    this._curve = [];
    this._surface = new Surface(element("curve", "canvas"));
    this._surface.onResize = () => this._drawCurve();
    element("judge", "details").addEventListener("toggle", () => void this._readFiles());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this._drawCurve());
  }

  /** @param {Record<string, any>} model  the answer of GET /model */
  show(model) {
    if (this._model?.digest === model.digest) return;
    this._model = model;
    this._filesRead = false;
    element("judge-empty").hidden = true;
    element("judge-content").hidden = false;
    this._showFacts(model);
    this._showRobustness(model.manifest.robustness.scenarios);
    void this._readFiles();
  }

  /** @param {string} text  why there is nothing */
  clear(text) {
    this._model = null;
    element("judge-content").hidden = true;
    element("judge-empty").hidden = false;
    element("judge-empty").textContent = text;
  }

  /** @param {Record<string, any>} model */
  _showFacts({ digest, backend, manifest }) {
    const { environment, provenance, evaluation, network, gate, parity } = manifest;
    const origin = provenance.origin ?? null;
    const versions = Object.entries(provenance.versions).map(([name, version]) => `${name} ${version}`);
    /** @type {[string, string, string?][]} */
    const facts = [
      ["Name", `${manifest.name}, version ${manifest.version}`],
      ["Digest", digest, "mono"],
      ["Made", `${manifest.created.slice(0, 16).replace("T", " ")} UTC, commit ${String(provenance.commit).slice(0, 12)}`],
      ...(origin === null ? trainingFacts(provenance) : originFacts(origin)),
      ["Plant", plantText(environment)],
      ["Network", [network.inputs, ...network.hidden, network.outputs].join(" → ")],
      ["Evaluation", `mean ${evaluation.mean.toFixed(1)} steps, worst ${evaluation.minimum}, over ${evaluation.episodes.toLocaleString("en")} episodes`],
      ["Gate", `${gate.name}: ${gate.passed ? "passed" : `failed, ${gate.failures.join("; ")}`}`],
      ["Parity", `runtimes err by at most ${Math.max(...Object.values(parity.largest_error)).toPrecision(2)} in Q`],
      ["Backend", backend],
      ["Versions", versions.join(", ")],
    ];
    element("facts").replaceChildren(
      ...facts.flatMap(([name, value, kind]) => [make("dt", {}, name), make("dd", kind ? { class: kind } : {}, value)]),
    );
  }

  /** @param {ScenarioResult[]} scenarios */
  _showRobustness(scenarios) {
    const lowest = Math.min(LOWEST_SHOWN, ...scenarios.flatMap((each) => [
      wilson(each.success_rate * each.episodes, each.episodes)[0],
      wilson(each.lqr_success_rate * each.episodes, each.episodes)[0],
    ]));
    const from = Math.max(0, Math.floor(lowest * 20) / 20);
    const rows = scenarios.map((each) => {
      const known = SCENARIOS.some(({ name }) => name === each.name);
      const button = make("button", { type: "button", "aria-label": `Watch ${each.name}` }, "Watch");
      button.addEventListener("click", () => this._watch(each.name));
      const cells = [
        make("th", { scope: "row" }, each.name),
        make("td", { class: "number" }, `${each.episodes} × ${each.steps.toLocaleString("en")}`),
        rateCell(each.success_rate, each.episodes),
        rateCell(each.lqr_success_rate, each.episodes),
        make("td", {}, intervals(each, from)),
        make("td", {}, ...(known ? [button] : [])),
      ];
      return make("tr", {}, ...cells);
    });
    const table = element("robustness", "table");
    table.tBodies[0].replaceChildren(...rows);
    setHead(table, 4, `95 % interval, ${Math.round(100 * from)} to 100 %`);
  }

  async _readFiles() {
    if (this._model === null || this._filesRead || !isOpen("judge")) return;
    this._filesRead = true;
    const { digest, manifest } = this._model;
    /** @param {string} name */
    const path = (name) => `model/files/${digest}/${encodeURIComponent(name)}`;
    const files = /** @type {string[]} */ (manifest.extra_files);

    const pictures = files.filter((name) => PICTURES.test(name));
    const figures = await Promise.all(pictures.map((name) => figureOf(path(name), name)));
    if (this._model?.digest !== digest) return;
    const shown = figures.filter((figure) => figure !== null);
    element("pictures").replaceChildren(...shown);
    element("pictures-part").hidden = shown.length === 0;

    const response = files.includes("scores.csv") ? await service.fetch(path("scores.csv")) : null;
    this._curve = response?.ok ? readCsv(await response.text()) : [];
    element("curve-part").hidden = this._curve.length < 2;
    this._drawCurve();
  }

  _drawCurve() {
    const context = this._surface.begin();
    if (context === null || this._curve.length < 2) return;
    const { width, height } = this._surface;
    const last = this._curve[this._curve.length - 1][0];
    const scores = this._curve.flatMap((row) => row.slice(1));
    const largest = Math.max(...scores);
    const area = { left: 40, top: 8, width: width - 48, height: height - 36 };
    context.strokeStyle = colour("line");
    context.fillStyle = colour("muted");
    context.textAlign = "right";
    for (const share of [0, 0.5, 1]) {
      const y = area.top + area.height * (1 - share);
      context.beginPath();
      context.moveTo(area.left, y);
      context.lineTo(area.left + area.width, y);
      context.stroke();
      context.fillText((largest * share).toFixed(largest > 10 ? 0 : 2), area.left - 6, y + 4);
    }
    context.fillText(`${last.toLocaleString("en")} steps`, area.left + area.width, height - 8);
    [["right", 1], ["muted", 2]].forEach(([name, column]) => {
      context.strokeStyle = colour(String(name));
      context.lineWidth = 1.8;
      context.beginPath();
      for (const row of this._curve) {
        context.lineTo(area.left + (row[0] / last) * area.width, area.top + area.height * (1 - row[Number(column)] / largest));
      }
      context.stroke();
    });
  }
}

/** @param {Record<string, any>} provenance @returns {[string, string][]} */
function trainingFacts(provenance) {
  return [
    ["Recipe", `${provenance.recipe}, seed ${provenance.seed}, on ${provenance.device}`],
    ["Training", `${provenance.steps.toLocaleString("en")} steps in ${provenance.seconds.toFixed(1)} s`],
  ];
}

/** @param {Record<string, any>} origin  of a policy that another program has trained @returns {[string, string, string?][]} */
function originFacts(origin) {
  return [
    ["Imported from", `${origin.file}, ${origin.library ?? "of an unknown program"}`],
    ["SHA-256 of that", origin.sha256, "mono"],
  ];
}

/** @param {Record<string, any>} environment */
function plantText({ id, plant, step_seconds: step }) {
  const pace = `steps of ${step} s`;
  if (plant === undefined || isSamePlant(baseOf({ plant }), DEFAULT_SETTING)) return `${id}, ${pace}`;
  const { cart_mass: cart, pole_mass: pole, half_length: length, force, gravity, friction } = plant;
  return `a cart of ${cart} kg, a pole of ${pole} kg and half length ${length} m, ${force} N, gravity ${gravity} m/s², friction ${friction} N·s/m, ${pace}`;
}

/** @param {HTMLTableElement} table @param {number} column @param {string} text */
function setHead(table, column, text) {
  if (table.tHead !== null) table.tHead.rows[0].cells[column].textContent = text;
}

/** @param {number} rate @param {number} episodes */
function rateCell(rate, episodes) {
  const [low, high] = wilson(rate * episodes, episodes);
  const title = `95 % interval ${(100 * low).toFixed(1)} to ${(100 * high).toFixed(1)} %`;
  return make("td", { class: "number", title }, `${Number((100 * rate).toFixed(2))} %`);
}

/** Both intervals as a drawing, with their numbers as its text. @param {ScenarioResult} result @param {number} from  where its axis begins */
function intervals(result, from) {
  const drawing = document.createElementNS(SVG, "svg");
  drawing.setAttribute("class", "interval");
  drawing.setAttribute("viewBox", "0 0 150 20");
  drawing.setAttribute("role", "img");
  /** @param {string} kind @param {Record<string, string | number>} attributes @param {string} name */
  const add = (kind, attributes, name) => {
    const node = document.createElementNS(SVG, kind);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, String(value));
    node.setAttribute("class", name);
    drawing.append(node);
  };
  /** @param {number} rate */
  const across = (rate) => 4 + (142 * (rate - from)) / (1 - from);
  add("line", { x1: 4, x2: 146, y1: 10, y2: 10 }, "base");
  const texts = [["policy", result.success_rate, 6], ["lqr", result.lqr_success_rate, 14]].map(([name, rate, y]) => {
    const [low, high] = wilson(Number(rate) * result.episodes, result.episodes);
    add("line", { x1: across(low), x2: across(high), y1: y, y2: y, "stroke-width": 2 }, String(name));
    add("circle", { cx: across(Number(rate)), cy: y, r: 2.6 }, String(name));
    return `${name === "lqr" ? "LQR" : name} ${(100 * low).toFixed(1)} to ${(100 * high).toFixed(1)} %`;
  });
  drawing.setAttribute("aria-label", texts.join(", "));
  return drawing;
}

/** @param {string} path @param {string} name @returns {Promise<HTMLElement | null>} */
async function figureOf(path, name) {
  const response = await service.fetch(path);
  if (!response.ok) return null;
  const source = URL.createObjectURL(await response.blob());
  const image = make("img", { src: source, alt: `${name}, from the bundle`, decoding: "async" });
  return make("figure", {}, image, make("figcaption", {}, name));
}

/** Steps and the scores of the best and the median agent. @param {string} text */
function readCsv(text) {
  const [head, ...lines] = text.trim().split(/\r?\n/).map((line) => line.split(","));
  const columns = ["steps", "best_score", "median_score"].map((name) => head.indexOf(name));
  if (columns.includes(-1)) return [];
  return lines.map((line) => columns.map((column) => Number(line[column]))).filter((row) => row.every(Number.isFinite));
}
