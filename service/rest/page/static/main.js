/** The page: starts the control loop in its worker, shows what it says, and tells it what people want. */

import { Compare } from "./compare.js";
import { Controls } from "./controls.js";
import { element, isOpen, setText } from "./dom.js";
import { Evidence } from "./evidence.js";
import { Operators } from "./operators.js";
import { POSITION_LIMIT } from "./physics.js";
import { SCENARIOS, stepsOf } from "./scenarios.js";
import { listenToPointer, Scene } from "./scene.js";
import { service } from "./service.js";
import { Speed } from "./speed.js";
import { DecisionSurface, Why } from "./why.js";

/**
 * @typedef {import("./physics.js").State} State
 * @typedef {import("./policy_client.js").Answer} Answer
 *
 * @typedef {object} Cart  what is shown of one cart
 * @property {Scene} scene
 * @property {State} before      a step ago
 * @property {State} state
 * @property {number} since      when the state came, ms
 * @property {0 | 1 | null} action
 * @property {boolean} controlled
 * @property {number} steps
 * @property {boolean} fallen
 */

const CALM = 4000; // ms between two texts of the live region
const NARROW = "(max-width: 899px)";
const LONGEST_RUN = 50_000; // steps that the CSV holds
const CSV_HEAD = "step,seq,seconds,cart_position,cart_velocity,pole_angle,pole_angular_velocity,action,controller,q_left,q_right,round_trip_ms";

if (matchMedia(NARROW).matches) {
  for (const panel of document.querySelectorAll("details.panel:not(#why)")) /** @type {HTMLDetailsElement} */ (panel).open = false;
}

// With the page's own query: what a worker may call is said by its own answer's policy, and a second service is named there.
const worker = new Worker(new URL(`worker.js${location.search}`, import.meta.url), { type: "module" });
/** @param {string} kind @param {Record<string, unknown>} [fields] */
const tell = (kind, fields = {}) => worker.postMessage({ kind, ...fields });

const carts = [cartOf("scene"), cartOf("rival-scene")];
const [cart] = carts;
const controls = new Controls((setting, begin) => tell("set", { setting, base: controls.base, begin }));
const why = new Why();
const surface = new DecisionSurface(why);
const speedPanel = new Speed();
const operators = new Operators();
const evidence = new Evidence((name) => {
  controls.choose(name);
  element("stage").scrollIntoView({ block: "center" });
  element("stage").focus({ preventScroll: true });
});
const compare = new Compare((address, key) => tell("compare", { address, key }));

let status = "connecting";
let reason = "";
let digest = ""; // of the policy that answered last
let isReading = false; // what the service says of it
let paused = false;
let speed = 1;
let driving = false;
let controller = "policy";
let runSeconds = 0;
let best = 0;
let yours = 0;
let watched = 0; // runs of the scenario that is on
let survived = 0;
/** @type {{asked: State, answer: Answer | null, seq: number} | null} */
let decision = null;
/** @type {string[]} */
let rows = [];
let announcedAt = -CALM;
/** @type {ReturnType<typeof setTimeout> | undefined} */
let announcement;

/** @param {string} id @returns {Cart} */
function cartOf(id) {
  const still = /** @type {State} */ ([0, 0, 0, 0]);
  const scene = new Scene(element(id, "canvas"));
  return { scene, before: still, state: still, since: 0, action: null, controlled: true, steps: 0, fallen: false };
}

/** Say it to those who do not see it, the last thing first and not too often. @param {string} text */
function announce(text) {
  clearTimeout(announcement);
  announcement = setTimeout(() => {
    announcedAt = performance.now();
    element("live").textContent = text;
  }, Math.max(0, announcedAt + CALM - performance.now()));
}

// What the loop says.

/** @type {Record<string, (message: any) => void>} */
const hear = {
  step(message) {
    const shown = carts[message.cart];
    move(shown, message.state);
    Object.assign(shown, { action: message.applied, steps: message.steps, fallen: message.fallen, controlled: message.controller !== "nobody" });
    if (message.cart === 0) hearFirst(message);
    else setText(element("rival-steps"), message.steps.toLocaleString("en"));
    if (message.fallen && message.cart === 1) compare.hear("fallen", `Fell after ${message.steps.toLocaleString("en")} steps.`);
  },
  lying(message) {
    const shown = carts[message.cart];
    move(shown, message.state);
    if (!shown.fallen && message.cart === 0) hearFall(message.state, shown.steps); // dropped from where nothing helps
    Object.assign(shown, { action: null, controlled: false, fallen: true });
  },
  decision(message) {
    if (message.cart === 0) decision = message;
    if (message.cart === 1 && !carts[1].fallen) compare.hear("http", "");
  },
  answer(message) {
    if (message.cart === 0) speedPanel.add(message.roundTrip, performance.now());
  },
  status(message) {
    if (message.cart === 1) {
      compare.hear(message.status, message.reason);
      return;
    }
    const answered = status === "stream" || status === "http";
    status = message.status;
    reason = message.reason;
    const texts = { stream: "WS /act/stream", http: "POST /act", none: "no answer", key: "needs a key", connecting: "connecting" };
    element("connection").dataset.status = status;
    setText(element("connection"), texts[/** @type {"none"} */ (status)]);
    if (status === "key") askForKey(reason);
    if (status === "none") announce("The service does not answer. Nobody controls the cart.");
    if (!answered && (status === "stream" || status === "http")) announce("The service answers. The policy controls the cart.");
  },
  run(message) {
    controls.follow(message.setting);
    rows = [];
    runSeconds = 0;
    why.forget();
    for (const each of carts) Object.assign(each, { steps: 0, fallen: false });
    if (!message.next) watched = survived = 0;
  },
  survived(message) {
    watched += 1;
    survived += 1;
    announce(`${message.preset}: survived all ${message.steps} steps.`);
  },
  compared(message) {
    compare.add(message.state, message.first, message.second);
  },
  clock(message) {
    speedPanel.tick(message.ticks, message.time);
  },
  late() {
    speedPanel.restartClock();
  },
};
worker.onmessage = (event) => hear[event.data.kind](event.data);

/** A step of the first cart. @param {any} message */
function hearFirst(message) {
  const { answer, asked, seq, steps } = message;
  controller = message.controller;
  runSeconds += controls.setting.stepTime / 1000;
  why.add({ time: runSeconds, x: message.state[0], theta: message.state[2], action: message.applied });
  speedPanel.steps += 1;
  if (answer === null && controller !== "nobody") speedPanel.misses += 1;
  if (answer !== null && answer.digest !== digest && !isReading) void readModel();
  if (rows.length < LONGEST_RUN) {
    const numbers = answer === null ? ["", "", ""] : [...answer.qValues, answer.roundTrip.toFixed(3)];
    rows.push([steps, seq, (runSeconds - controls.setting.stepTime / 1000).toFixed(3), ...asked, message.action ?? "", controller, ...numbers].join(","));
  }
  if (message.fallen) hearFall(message.state, steps);
}

/** @param {State} state @param {number} steps */
function hearFall(state, steps) {
  if (controls.setting.preset) watched += 1;
  best = driving ? best : Math.max(best, runSeconds);
  yours = driving ? Math.max(yours, runSeconds) : yours;
  const what = Math.abs(state[0]) > POSITION_LIMIT ? "The cart left the track" : "The pole fell";
  announce(`${what} after ${steps} steps${controller === "nobody" ? ": nobody controls" : ""}.`);
}

/** @param {Cart} shown @param {State} state */
function move(shown, state) {
  shown.before = shown.state;
  shown.state = state;
  shown.since = performance.now();
}

// Each frame.

/** @param {number} now */
function frame(now) {
  requestAnimationFrame(frame);
  for (const [index, each] of carts.entries()) {
    if (index === 1 && element("rival").hidden) continue;
    each.scene.draw(between(each, now), controls.setting, each.action, each.controlled);
  }
  why.draw(decision, now);
  surface.draw(decision?.asked ?? cart.state);
  speedPanel.draw(now);
  writeScore();
  writeBanner();
}

/** The state between the last two steps, for frames come more often. @param {Cart} shown @param {number} now @returns {State} */
function between(shown, now) {
  const share = paused ? 1 : Math.min(1, (now - shown.since) / (controls.setting.stepTime / speed));
  const jumped = Math.abs(shown.state[0] - shown.before[0]) > 0.3 || Math.abs(shown.state[2] - shown.before[2]) > 0.3;
  if (jumped || share < 0) return shown.state;
  return /** @type {State} */ (shown.state.map((value, index) => shown.before[index] + share * (value - shown.before[index])));
}

function writeScore() {
  setText(element("steps"), cart.steps.toLocaleString("en"));
  setText(element("seconds"), `${(cart.fallen ? runSeconds : (cart.steps * controls.setting.stepTime) / 1000).toFixed(1)} s`);
  element("best-part").hidden = best === 0;
  setText(element("best"), `${Math.max(best, driving ? 0 : runSeconds).toFixed(1)} s`);
  element("yours-part").hidden = yours === 0 && !driving;
  setText(element("yours"), `${Math.max(yours, driving ? runSeconds : 0).toFixed(1)} s`);
}

function writeBanner() {
  const { preset } = controls.setting;
  const scenario = SCENARIOS.find(({ name }) => name === preset);
  let text = "";
  let bad = false;
  if (status === "key") {
    text = "Nobody controls: the service asks for a key.";
    bad = true;
  } else if (status === "none" && !driving) {
    text = `Nobody controls: ${reason.charAt(0).toLowerCase()}${reason.slice(1)}.`;
    bad = true;
  } else if (cart.fallen) {
    const what = Math.abs(cart.state[0]) > POSITION_LIMIT ? "The cart left the track" : "The pole fell";
    text = `${what} after ${cart.steps.toLocaleString("en")} steps.`;
    bad = true;
  } else if (driving) {
    text = "You drive: hold ← or →.";
  } else if (paused) {
    text = "Paused";
  } else if (scenario !== undefined) {
    text = `${preset}: step ${cart.steps.toLocaleString("en")} of ${stepsOf(scenario, controls.base).toLocaleString("en")}${watched ? `; ${survived} of ${watched} runs survived` : ""}`;
  }
  const banner = element("banner");
  banner.hidden = text === "";
  banner.classList.toggle("bad", bad);
  setText(banner, text);
}

// What the service says of its policy, and the key that it may ask for.

async function readModel() {
  isReading = true;
  try {
    const response = await service.fetch("model", { cache: "no-store" });
    const answer = await response.json();
    if (response.status === 401 || response.status === 403) {
      askForKey(service.key === null ? "" : answer.detail);
      return false;
    }
    if (!response.ok) return false;
    element("key-form").hidden = true;
    digest = answer.digest;
    setText(element("policy-name"), `${answer.manifest.name} ${answer.manifest.version}, ${answer.digest.slice(7, 15)}`);
    controls.followPlant(answer.manifest.environment);
    why.describe(answer.manifest.state);
    evidence.show(answer);
    void surface.ask(answer.digest);
    return true;
  } catch {
    return false; // the loop says that the service does not answer
  } finally {
    isReading = false;
  }
}

/** @param {string} detail  why the key that was given does not do */
function askForKey(detail) {
  element("key-form").hidden = false;
  setText(element("key-reason"), detail);
  evidence.clear("What the policy is, the service tells those who have a key.");
  setText(element("policy-name"), "needs a key");
}

element("key-form", "form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const input = element("key", "input");
  service.key = input.value.trim();
  input.value = "";
  tell("key", { cart: 0, key: service.key });
  if (await readModel()) void compare.findShadow().catch(() => {});
  operators.resume();
});

// What people want.

/** @param {number} change  of the cart's velocity, m/s */
function push(change) {
  tell("push", { change });
  announce(`Pushed by ${Math.abs(change).toFixed(1)} metres a second to the ${change < 0 ? "left" : "right"}.`);
}

/** @param {1 | -1} direction */
function poke(direction) {
  if (!driving) push(direction * Number(element("push-size", "select").value));
}

function pause() {
  paused = !paused;
  tell("pause", { paused });
  element("pause").setAttribute("aria-pressed", String(paused));
  element("step", "button").disabled = !paused;
  speedPanel.restartClock();
  announce(paused ? `Paused after ${cart.steps} steps.` : "Goes on.");
}

function drive() {
  driving = !driving;
  element("drive").setAttribute("aria-pressed", String(driving));
  if (!driving) yours = Math.max(yours, runSeconds);
  else best = Math.max(best, runSeconds);
  tell("drive", { on: driving });
  announce(driving ? "You drive, with the arrow keys." : "The policy drives.");
  element("stage").focus();
}

/** @type {Record<string, () => void>} */
const keys = {
  ArrowLeft: () => poke(-1),
  ArrowRight: () => poke(1),
  " ": pause,
  ".": () => tell("step"),
  r: () => tell("reset"),
  d: drive,
};

/** Whether the keys are the stage's: on a slider or in a field they mean something else. */
function stageHasKeys() {
  return document.activeElement === document.body || document.activeElement === element("stage");
}

addEventListener("keydown", (event) => {
  const arrow = event.key === "ArrowLeft" || event.key === "ArrowRight";
  if (event.ctrlKey || event.metaKey || event.altKey || !stageHasKeys()) return;
  if (!arrow && document.activeElement !== element("stage")) return;
  const action = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (action === undefined) return;
  event.preventDefault();
  if (arrow && driving) tell("driven", { action: event.key === "ArrowRight" ? 1 : 0 });
  else if (!event.repeat || event.key === ".") action();
});
addEventListener("keyup", (event) => {
  if (event.key === "ArrowLeft" || event.key === "ArrowRight") tell("driven", { action: null });
});

// Held, the two buttons drive as the arrow keys do, for fingers.
for (const [id, direction] of /** @type {[string, 1 | -1][]} */ ([["push-left", -1], ["push-right", 1]])) {
  const button = element(id);
  button.addEventListener("click", () => poke(direction));
  button.addEventListener("pointerdown", () => driving && tell("driven", { action: direction === 1 ? 1 : 0 }));
  for (const end of ["pointerup", "pointercancel", "pointerleave"]) button.addEventListener(end, () => driving && tell("driven", { action: null }));
}
element("pause").addEventListener("click", pause);
element("step").addEventListener("click", () => tell("step"));
element("reset").addEventListener("click", () => tell("reset"));
element("drive").addEventListener("click", drive);
element("speed", "select").addEventListener("change", (event) => {
  speed = Number(/** @type {HTMLSelectElement} */ (event.target).value);
  tell("speed", { speed });
  speedPanel.restartClock();
});
element("csv").addEventListener("click", () => {
  const source = URL.createObjectURL(new Blob([`${CSV_HEAD}\n${rows.join("\n")}\n`], { type: "text/csv" }));
  const link = Object.assign(document.createElement("a"), { href: source, download: "run.csv" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(source), 10_000);
});
listenToPointer(cart.scene, element("stage"), {
  state: () => cart.state,
  halfLength: () => controls.setting.halfLength,
  push,
  poke,
  drop: (state) => tell("drop", { state }),
});
document.addEventListener("visibilitychange", () => {
  tell("visibility", { visible: !document.hidden });
  speedPanel.restartClock();
});
element("surface").addEventListener("toggle", () => isOpen("surface") && surface.draw(cart.state));

tell("start", { address: service.address, setting: controls.setting, base: controls.base, visible: !document.hidden });
compare.start();
element("stage").classList.add("drawn");
requestAnimationFrame(frame);
void readModel().then((known) => known && compare.findShadow().catch(() => {}));
