/** What the service does right now, from its metrics, for whoever has no dashboard at hand. */

import { colour, element, fixed, isOpen, make, milliseconds, Surface } from "./dom.js";
import { service } from "./service.js";
import { histogramQuantile } from "./statistics.js";

/**
 * @typedef {{name: string, labels: Record<string, string>, value: number}} Sample
 * @typedef {{time: number, samples: Sample[]}} Scrape
 */

const PERIOD = 1000; // ms
const WINDOW = 10; // scrapes that rates and quantiles are taken over
const SHOWN = 60; // rates in the chart

/**
 * The samples of a Prometheus exposition.
 * @param {string} text
 * @returns {Sample[]}
 */
export function parse(text) {
  const samples = [];
  for (const line of text.split("\n")) {
    const match = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/.exec(line);
    if (match === null) continue;
    /** @type {Record<string, string>} */
    const labels = {};
    for (const [, name, value] of (match[2] ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)) {
      labels[name] = value.replace(/\\(.)/g, (_, character) => (character === "n" ? "\n" : character));
    }
    samples.push({ name: match[1], labels, value: match[3] === "+Inf" ? Infinity : Number(match[3]) });
  }
  return samples;
}

/** What happened between two scrapes. */
export class Change {
  /** @param {Scrape} before @param {Scrape} after */
  constructor(before, after) {
    this.after = after;
    this.seconds = (after.time - before.time) / 1000;
    this._before = new Map(before.samples.map((sample) => [keyOf(sample), sample.value]));
  }

  /** Samples of a metric. @param {string} name */
  of(name) {
    return this.after.samples.filter((sample) => sample.name === name);
  }

  /** By how much a sample grew; from nothing after a restart. @param {Sample} sample */
  grown(sample) {
    const before = this._before.get(keyOf(sample)) ?? 0;
    return sample.value >= before ? sample.value - before : sample.value;
  }

  /** Growth a second of all samples of a metric that fit. @param {string} name @param {Record<string, string>} [labels] */
  rate(name, labels = {}) {
    const fitting = this.of(name).filter((sample) => fits(sample, labels));
    return fitting.reduce((sum, sample) => sum + this.grown(sample), 0) / this.seconds;
  }

  /** A quantile of what came in between, s. @param {string} name @param {Record<string, string>} labels @param {number} share */
  quantile(name, labels, share) {
    const buckets = this.of(`${name}_bucket`)
      .filter((sample) => fits(sample, labels))
      .map((sample) => /** @type {[number, number]} */ ([sample.labels.le === "+Inf" ? Infinity : Number(sample.labels.le), this.grown(sample)]))
      .sort(([a], [b]) => a - b);
    return histogramQuantile(buckets, share);
  }
}

export class Operators {
  constructor() {
    /** @type {Scrape[]} */
    this._scrapes = [];
    /** @type {number[]} */
    this._rates = [];
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this._timer = undefined;
    this._surface = new Surface(element("traffic", "canvas"));
    element("operate", "details").addEventListener("toggle", () => this.resume());
    document.addEventListener("visibilitychange", () => this.resume());
  }

  /** Ask again each second while the panel is open and seen. */
  resume() {
    clearTimeout(this._timer);
    if (isOpen("operate")) void this._poll();
  }

  async _poll() {
    try {
      const response = await service.fetch("metrics", { cache: "no-store" });
      if (!response.ok) {
        const needsKey = response.status === 401 || response.status === 403;
        this._say(needsKey ? "The metrics need a key with the scope metrics." : `The metrics answered ${response.status}.`);
        if (needsKey) return;
      } else {
        this._take({ time: performance.now(), samples: parse(await response.text()) });
      }
    } catch {
      this._say("The service does not answer.");
    }
    clearTimeout(this._timer);
    if (isOpen("operate")) this._timer = setTimeout(() => void this._poll(), PERIOD);
  }

  /** @param {string} text */
  _say(text) {
    if (element("operate-text").textContent !== text) element("operate-text").textContent = text;
  }

  /** @param {Scrape} scrape */
  _take(scrape) {
    this._scrapes.push(scrape);
    if (this._scrapes.length > WINDOW + 1) this._scrapes.shift();
    if (this._scrapes.length < 2) return;
    this._rates.push(new Change(this._scrapes[this._scrapes.length - 2], scrape).rate("upright_requests_total"));
    if (this._rates.length > SHOWN) this._rates.shift();
    element("operate-content").hidden = false;
    this._say("What the service does, from its metrics, each second; rates and quantiles over the last ten seconds.");
    this._show(new Change(this._scrapes[0], scrape));
    this._draw();
  }

  /** @param {Change} change */
  _show(change) {
    const started = change.of("process_start_time_seconds")[0]?.value;
    const ready = change.of("upright_ready")[0]?.value === 1;
    const all = change.rate("upright_requests_total");
    const good = change.rate("upright_requests_total", { status: "200" });
    const figures = [
      ["State", ready ? "ready" : "draining"],
      ["Requests", `${fixed(all, 1)} /s`],
      ["Not 200", `${fixed(all - good, 1)} /s`],
      ["Inference p50", milliseconds(1000 * change.quantile("upright_inference_seconds", {}, 0.5))],
      ["Inference p99", milliseconds(1000 * change.quantile("upright_inference_seconds", {}, 0.99))],
      ["Up for", started === undefined ? "–" : duration(Date.now() / 1000 - started)],
    ];
    element("operate-figures").replaceChildren(
      ...figures.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))),
    );

    const requests = change.of("upright_requests_total").sort((a, b) => change.grown(b) - change.grown(a) || b.value - a.value);
    element("endpoints", "table").tBodies[0].replaceChildren(
      ...requests.map((sample) => {
        const { endpoint, status } = sample.labels;
        const latency = [0.5, 0.99].map((share) => milliseconds(1000 * change.quantile("upright_request_seconds", { endpoint }, share)));
        const numbers = [status, fixed(change.grown(sample) / change.seconds, 1), sample.value.toLocaleString("en"), ...latency];
        return make("tr", {}, make("th", { scope: "row" }, endpoint), ...numbers.map((text) => make("td", { class: "number" }, text)));
      }),
    );
    this._showPolicy(change);
  }

  /** @param {Change} change */
  _showPolicy(change) {
    /** @param {string} name @param {string} label */
    const counts = (name, label) =>
      change.of(name).filter((sample) => sample.value > 0).map((sample) => `${sample.labels[label]} ${sample.value.toLocaleString("en")}`).join(", ") || "none";
    const bundle = change.of("upright_bundle_info")[0]?.labels ?? {};
    const build = change.of("upright_build_info")[0]?.labels ?? {};
    const facts = [
      ["Bundle", `${bundle.model} ${bundle.version}, ${bundle.backend}`],
      ["Digest", String(bundle.digest).slice(0, 19)],
      ["Actions", counts("upright_actions_total", "action")],
      ["Out of range", counts("upright_out_of_range_total", "value")],
      ["Reloads", counts("upright_reloads_total", "outcome")],
      ["Shadow", counts("upright_shadow_states_total", "outcome")],
      ["Record", counts("upright_record_rows_total", "outcome")],
      ["Keys refused", counts("upright_keys_total", "outcome")],
      ["Build", `${build.version}, Python ${build.python}, onnxruntime ${build.onnxruntime}`],
    ];
    const workers = change.of("upright_workers")[0]?.value;
    if (workers !== undefined) facts.push(["Workers", String(workers)]);
    element("operate-policy").replaceChildren(...facts.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
  }

  _draw() {
    const context = this._surface.begin();
    if (context === null) return;
    const { width, height } = this._surface;
    const most = Math.max(1, ...this._rates);
    const bar = width / SHOWN;
    this._rates.forEach((rate, index) => {
      const tall = ((height - 16) * rate) / most;
      context.fillStyle = colour("left");
      context.fillRect((SHOWN - this._rates.length + index) * bar + 0.5, height - tall, bar - 1, tall);
    });
    context.fillStyle = colour("muted");
    context.fillText(`${fixed(most, 0)} requests a second at most, in the last minute`, 0, 10);
  }
}

/** @param {Sample} sample */
function keyOf(sample) {
  return sample.name + JSON.stringify(Object.entries(sample.labels).sort());
}

/** @param {Sample} sample @param {Record<string, string>} labels */
function fits(sample, labels) {
  return Object.entries(labels).every(([name, value]) => sample.labels[name] === value);
}

/** @param {number} seconds */
function duration(seconds) {
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return `${Math.round(seconds / 3600)} h`;
}
