/** Small helpers for the page's elements, its canvases and its colours. */

/**
 * The element with this id.
 * @template {keyof HTMLElementTagNameMap} T
 * @param {string} id
 * @param {T} [_tag]  what it is, for the types
 * @returns {HTMLElementTagNameMap[T]}
 */
export function element(id, _tag) {
  const found = document.getElementById(id);
  if (found === null) throw new Error(`the page has no element #${id}`);
  return /** @type {any} */ (found);
}

/** Set a text, where it differs: the browser lays out nothing for nothing. @param {Element} node @param {string} text */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/**
 * A new element with a text or with children.
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag
 * @param {Record<string, string>} [attributes]
 * @param {...(Node | string)} children
 * @returns {HTMLElementTagNameMap[T]}
 */
export function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** Whether a panel is open and can be seen, so that drawing it is worth while. @param {string} id */
export function isOpen(id) {
  return !document.hidden && element(id, "details").open;
}

/** @type {Record<string, string>} */
const known = {};
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const name of Object.keys(known)) delete known[name];
});

/** A colour of style.css by its name, in the scheme that is on. @param {string} name */
export function colour(name) {
  known[name] ??= getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  return known[name];
}

export const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");

/** A canvas that is as sharp as the screen. */
export class Surface {
  /** @param {HTMLCanvasElement} canvas */
  constructor(canvas) {
    this.canvas = canvas;
    this.context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    this.width = 0; // CSS pixels
    this.height = 0;
    new ResizeObserver(([entry]) => {
      this.width = entry.contentRect.width;
      this.height = entry.contentRect.height;
      this.onResize();
    }).observe(canvas);
  }

  onResize() {}

  /** Clear it, and return its context in CSS pixels; null while it has no size. */
  begin() {
    const { width, height } = this;
    if (width === 0 || height === 0) return null;
    const ratio = Math.min(2, devicePixelRatio || 1);
    const wide = Math.round(width * ratio);
    const high = Math.round(height * ratio);
    if (this.canvas.width !== wide || this.canvas.height !== high) {
      this.canvas.width = wide;
      this.canvas.height = high;
    }
    this.context.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.context.clearRect(0, 0, width, height);
    this.context.font = "11px system-ui, sans-serif";
    return this.context;
  }
}

/** @param {number} value @param {number} digits */
export function fixed(value, digits) {
  return Number.isFinite(value) ? value.toFixed(digits).replace("-", "−") : "–";
}

/** Milliseconds for people. @param {number} value */
export function milliseconds(value) {
  if (!Number.isFinite(value)) return "–";
  return value < 10 ? `${value.toFixed(2)} ms` : `${value.toFixed(value < 100 ? 1 : 0)} ms`;
}
