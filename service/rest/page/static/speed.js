/** How fast the service answers, as the browser measures it, and whether the loop keeps its time. */

import { colour, element, fixed, isOpen, milliseconds, setText, Surface } from "./dom.js";
import { quantile } from "./statistics.js";

const KEPT = 1500; // round trips, half a minute of them
const BOUNDS = [0.2, 0.35, 0.5, 0.75, 1, 1.5, 2, 3.5, 5, 7.5, 10, 15, 20, 35, 50, 100, 200]; // ms
const TEXT_PERIOD = 250; // ms between two figures

export class Speed {
  constructor() {
    /** @type {number[]} ms */
    this._roundTrips = [];
    /** @type {number[]} when the answers came, ms */
    this._answeredAt = [];
    /** @type {{ticks: number, time: number}[]} */
    this._clock = [];
    this._frames = 0;
    this._framesSince = 0;
    this._textAt = 0;
    this.misses = 0;
    this.steps = 0;
    this._surface = new Surface(element("histogram", "canvas"));
  }

  /** @param {number} roundTrip  ms @param {number} time  ms */
  add(roundTrip, time) {
    this._roundTrips.push(roundTrip);
    this._answeredAt.push(time);
    if (this._roundTrips.length > KEPT) this._roundTrips.shift();
    while (this._answeredAt[0] < time - 2000) this._answeredAt.shift();
  }

  /** How many steps the loop has made at a time of its own clock. @param {number} ticks @param {number} time */
  tick(ticks, time) {
    this._clock.push({ ticks, time });
    if (this._clock.length > 11) this._clock.shift();
  }

  /** The loop was halted or goes at another speed: what was measured before says nothing. */
  restartClock() {
    this._clock = [];
  }

  /** @param {number} now  ms, of a frame */
  draw(now) {
    this._frames += 1;
    if (now - this._textAt < TEXT_PERIOD) return;
    this._textAt = now;
    if (now - this._framesSince > 1000) {
      setText(element("frame-rate"), `${Math.round((1000 * this._frames) / (now - this._framesSince))} /s`);
      this._frames = 0;
      this._framesSince = now;
    }
    if (!isOpen("fast")) return;

    const sorted = [...this._roundTrips].sort((a, b) => a - b);
    const recent = this._roundTrips.slice(-5).sort((a, b) => a - b);
    setText(element("round-trip"), milliseconds(quantile(recent, 0.5)));
    setText(element("p50"), milliseconds(quantile(sorted, 0.5)));
    setText(element("p99"), milliseconds(quantile(sorted, 0.99)));
    const answers = this._answeredAt.filter((time) => time > performance.now() - 2000).length;
    setText(element("answer-rate"), `${Math.round(answers / 2)} /s`);
    setText(element("misses"), this.misses.toLocaleString("en"));
    setText(element("all-steps"), this.steps.toLocaleString("en"));
    const [first, last] = [this._clock[0], this._clock[this._clock.length - 1]];
    const rate = this._clock.length > 4 ? (1000 * (last.ticks - first.ticks)) / (last.time - first.time) : NaN;
    setText(element("control-rate"), Number.isFinite(rate) ? `${fixed(rate, 1)} Hz` : "–");
    this._drawHistogram();
  }

  _drawHistogram() {
    const context = this._surface.begin();
    if (context === null) return;
    const { width, height } = this._surface;
    const counts = new Array(BOUNDS.length + 1).fill(0);
    for (const value of this._roundTrips) {
      const index = BOUNDS.findIndex((bound) => value <= bound);
      counts[index === -1 ? BOUNDS.length : index] += 1;
    }
    const most = Math.max(1, ...counts);
    const bar = width / counts.length;
    const deadline = BOUNDS.indexOf(20);
    counts.forEach((count, index) => {
      const tall = count === 0 ? 0 : Math.max(1.5, ((height - 22) * count) / most);
      context.fillStyle = index > deadline ? colour("bad") : colour("left");
      context.fillRect(index * bar + 1, height - 17 - tall, bar - 2, tall);
      context.fillStyle = colour("line");
      context.fillRect(index * bar + 1, height - 17, bar - 2, 1);
    });
    context.fillStyle = colour("muted");
    context.textAlign = "center";
    for (const bound of [0.5, 1, 2, 5, 10, 20, 50]) {
      context.fillText(bound === 20 ? "20 ms" : String(bound), (BOUNDS.indexOf(bound) + 1) * bar, height - 3);
    }
  }
}
