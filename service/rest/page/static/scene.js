/** Draws the cart with its pole, and turns what a pointer does there into pushes. */

import { colour, reducedMotion, Surface } from "./dom.js";
import { ANGLE_LIMIT, POSITION_LIMIT } from "./physics.js";

/** @typedef {import("./physics.js").State} State */

const CART = { width: 0.52, height: 0.25 }; // m
const NARROW = 620; // CSS pixels; below it the view follows the cart, so that it stays large
const PUSH_PER_METRE = 2; // m/s for each metre that is dragged
const LARGEST_PUSH = 3; // m/s

export class Scene {
  /** @param {HTMLCanvasElement} canvas */
  constructor(canvas) {
    this.surface = new Surface(canvas);
    this.camera = 0; // m, the position in the middle of the view
    this.scale = 100; // CSS pixels a metre
    this.ground = 0; // CSS pixels
    /** @type {[number, number][]} where the tip has been, m */
    this._trail = [];
    /** @type {number | null} m/s, a push that is being drawn */
    this.aimed = null;
    /** @type {State | null} a pole that is held */
    this.held = null;
  }

  /**
   * @param {State} state
   * @param {import("./scenarios.js").Setting} setting
   * @param {0 | 1 | null} action  that acts now
   * @param {boolean} controlled   whether somebody does
   */
  draw(state, setting, action, controlled) {
    const context = this.surface.begin();
    if (context === null) return;
    const [x, , theta] = this.held ?? state;
    this._place(x, setting.halfLength);
    this._drawTrack(context);

    const left = this.toPixels(x);
    const pivot = this.ground - CART.height * this.scale;
    const length = 2 * setting.halfLength * this.scale;
    const tip = /** @type {[number, number]} */ ([x + 2 * setting.halfLength * Math.sin(theta), 2 * setting.halfLength * Math.cos(theta)]);
    this._drawLimits(context, left, pivot, length);
    this._drawTrail(context, tip, pivot);
    this._drawForce(context, left, setting.force, action);

    const width = CART.width * this.scale;
    context.fillStyle = colour("cart");
    context.beginPath();
    context.roundRect(left - width / 2, pivot, width, CART.height * this.scale, 5);
    context.fill();

    context.strokeStyle = controlled ? colour("pole") : colour("muted");
    context.lineCap = "round";
    context.lineWidth = Math.max(5, Math.min(16, 7 * (setting.poleMass / 0.1) ** 0.25));
    context.beginPath();
    context.moveTo(left, pivot + 3);
    context.lineTo(left + length * Math.sin(theta), pivot + 3 - length * Math.cos(theta));
    context.stroke();
    context.fillStyle = colour("panel");
    context.beginPath();
    context.arc(left, pivot + 3, 2.6, 0, 2 * Math.PI);
    context.fill();
    if (this.aimed !== null) this._drawAim(context, left, pivot, this.aimed);
  }

  /** @param {number} x */
  toPixels(x) {
    return this.surface.width / 2 + (x - this.camera) * this.scale;
  }

  /** @param {number} x @param {number} halfLength */
  _place(x, halfLength) {
    const { width, height } = this.surface;
    const seen = width < NARROW ? 3.1 : 5.3; // m
    const tallest = (height - 96) / (CART.height + Math.max(1, 2 * halfLength));
    this.scale = Math.min(width / seen, Math.max(60, tallest));
    const room = Math.max(0, 2.65 - width / this.scale / 2);
    this.camera = Math.max(-room, Math.min(room, x));
    this.ground = height - 34;
  }

  /** @param {CanvasRenderingContext2D} context */
  _drawTrack(context) {
    const { width } = this.surface;
    const first = this.toPixels(-POSITION_LIMIT);
    const last = this.toPixels(POSITION_LIMIT);
    context.strokeStyle = colour("line");
    context.fillStyle = colour("muted");
    context.lineWidth = 2;
    context.beginPath();
    context.moveTo(Math.max(0, first), this.ground + 1);
    context.lineTo(Math.min(width, last), this.ground + 1);
    context.stroke();

    context.lineWidth = 1;
    context.textAlign = "center";
    for (let half = -4; half <= 4; half += 1) {
      const at = this.toPixels(half / 2);
      context.fillRect(at - 0.5, this.ground + 4, 1, half % 2 === 0 ? 6 : 3);
      if (half % 2 === 0) context.fillText(half === 0 ? "0 m" : fixedSign(half / 2), at, this.ground + 24);
    }
    context.strokeStyle = colour("bad");
    for (const at of [first, last]) {
      context.beginPath();
      context.moveTo(at, this.ground + 10);
      context.lineTo(at, this.ground - 26);
      context.stroke();
    }
  }

  /** The angles at which an episode ends. @param {CanvasRenderingContext2D} context @param {number} left @param {number} pivot @param {number} length */
  _drawLimits(context, left, pivot, length) {
    const reach = length + 16;
    context.strokeStyle = colour("line");
    context.lineWidth = 1;
    context.setLineDash([3, 4]);
    context.beginPath();
    for (const angle of [-ANGLE_LIMIT, ANGLE_LIMIT]) {
      context.moveTo(left, pivot + 3);
      context.lineTo(left + reach * Math.sin(angle), pivot + 3 - reach * Math.cos(angle));
    }
    context.stroke();
    context.beginPath();
    context.arc(left, pivot + 3, reach, -Math.PI / 2 - ANGLE_LIMIT, -Math.PI / 2 + ANGLE_LIMIT);
    context.stroke();
    context.setLineDash([]);
  }

  /** @param {CanvasRenderingContext2D} context @param {[number, number]} tip @param {number} pivot */
  _drawTrail(context, tip, pivot) {
    if (reducedMotion.matches || this.held !== null) {
      this._trail = [];
      return;
    }
    this._trail.push(tip);
    if (this._trail.length > 40) this._trail.shift();
    context.fillStyle = colour("pole");
    this._trail.forEach(([x, height], index) => {
      context.globalAlpha = (index / this._trail.length) * 0.22;
      context.beginPath();
      context.arc(this.toPixels(x), pivot + 3 - height * this.scale, 2, 0, 2 * Math.PI);
      context.fill();
    });
    context.globalAlpha = 1;
  }

  /** @param {CanvasRenderingContext2D} context @param {number} left @param {number} force @param {0 | 1 | null} action */
  _drawForce(context, left, force, action) {
    if (action === null) return;
    const direction = action === 1 ? 1 : -1;
    const from = left + direction * (CART.width / 2) * this.scale + direction * 7;
    const length = direction * Math.max(14, Math.min(64, 3.2 * force));
    drawArrow(context, from, this.ground - (CART.height / 2) * this.scale, length, colour(action === 1 ? "right" : "left"), 3);
  }

  /** @param {CanvasRenderingContext2D} context @param {number} left @param {number} pivot @param {number} push */
  _drawAim(context, left, pivot, push) {
    const y = pivot - 16;
    drawArrow(context, left, y, (push / PUSH_PER_METRE) * this.scale, colour("ink"), 3);
    context.fillStyle = colour("ink");
    context.font = "600 13px system-ui, sans-serif";
    context.textAlign = "center";
    context.fillText(`${fixedSign(push, 1)} m/s`, left, y - 12);
  }
}

/**
 * Listen to a pointer: a click beside the cart pokes it, a drag from the cart pushes it by its length, the pole's tip can be held.
 * @param {Scene} scene
 * @param {HTMLElement} stage
 * @param {{state: () => State, halfLength: () => number, push: (change: number) => void, poke: (direction: 1 | -1) => void,
 *   drop: (state: State) => void}} actions
 */
export function listenToPointer(scene, stage, actions) {
  /** @type {"push" | "hold" | null} */
  let kind = null;
  let began = 0;

  /** @param {PointerEvent} event */
  const place = (event) => {
    const box = stage.getBoundingClientRect();
    const pivot = scene.ground - CART.height * scene.scale;
    const x = (event.clientX - box.left - scene.surface.width / 2) / scene.scale + scene.camera;
    return { x, height: (pivot - (event.clientY - box.top)) / scene.scale };
  };

  /** @param {PointerEvent} event @returns {State} */
  const heldAt = (event) => {
    const { x, height } = place(event);
    const [cart] = scene.held ?? actions.state();
    const angle = Math.atan2(x - cart, Math.max(0.02, height));
    return [cart, 0, Math.max(-1.4, Math.min(1.4, angle)), 0];
  };

  /** @param {PointerEvent} event */
  const aim = (event) => {
    const change = (place(event).x - began) * PUSH_PER_METRE;
    return Math.max(-LARGEST_PUSH, Math.min(LARGEST_PUSH, change));
  };

  stage.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    const { x, height } = place(event);
    const [cart, , theta] = actions.state();
    const length = 2 * actions.halfLength();
    const reach = event.pointerType === "touch" ? 0.3 : 0.18;
    const toTip = Math.hypot(x - cart - length * Math.sin(theta), height - length * Math.cos(theta));
    stage.setPointerCapture(event.pointerId);
    began = x;
    kind = toTip < reach ? "hold" : "push";
    if (kind === "hold") scene.held = heldAt(event);
  });
  stage.addEventListener("pointermove", (event) => {
    if (kind === "hold") scene.held = heldAt(event);
    if (kind === "push") scene.aimed = Math.abs(aim(event)) < 0.15 ? null : aim(event);
  });
  stage.addEventListener("pointerup", (event) => {
    if (kind === "hold") actions.drop(heldAt(event));
    if (kind === "push") {
      if (Math.abs(aim(event)) >= 0.15) actions.push(aim(event));
      else actions.poke(place(event).x < actions.state()[0] ? 1 : -1);
    }
    kind = scene.aimed = scene.held = null;
  });
  stage.addEventListener("pointercancel", () => {
    kind = scene.aimed = scene.held = null;
  });
}

/** @param {CanvasRenderingContext2D} context @param {number} x @param {number} y @param {number} length @param {string} fill @param {number} thick */
function drawArrow(context, x, y, length, fill, thick) {
  const direction = Math.sign(length);
  context.fillStyle = fill;
  context.fillRect(Math.min(x, x + length - direction * 6), y - thick / 2, Math.max(0, Math.abs(length) - 6), thick);
  context.beginPath();
  context.moveTo(x + length, y);
  context.lineTo(x + length - direction * 8, y - 5.5);
  context.lineTo(x + length - direction * 8, y + 5.5);
  context.fill();
}

/** @param {number} value @param {number} [digits] */
function fixedSign(value, digits = 0) {
  return `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(digits)}`;
}
