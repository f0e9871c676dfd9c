/**
 * The control loop. It runs in a worker, so that a late frame of the page delays no action.
 *
 * Each step: take the answer to the present state, move the cart, observe, ask. What the page wants comes as messages, and
 * each step goes back as one.
 */

import { PolicyClient } from "./policy_client.js";
import { Random } from "./random.js";
import { DEFAULT_SETTING, SCENARIOS, settingOf, stepsOf } from "./scenarios.js";
import { Simulation } from "./simulation.js";

/**
 * @typedef {import("./physics.js").State} State
 * @typedef {import("./policy_client.js").Address} Address
 * @typedef {import("./policy_client.js").Answer} Answer
 * @typedef {import("./scenarios.js").Setting} Setting
 * @typedef {import("./simulation.js").Action} Action
 * @typedef {"policy" | "held" | "nobody" | "you"} Controller  "held": the answer is missing, the last action goes on
 */

const HOLD_STEPS = 5; // that the last action goes on where answers are missing; then nobody controls
const FIRST_ANSWER_WAIT = 3000; // ms that a run waits for its first answer, while the service may still give one
const LYING_TIME = 1800; // ms that a fallen pole lies before the next run
const LONGEST_CATCH_UP = 250; // ms: what is later than this is not made up for
const PROBE_INTERVAL = 500; // ms between two questions while nobody controls a fallen pole

/** A cart and the policy that controls it. */
class Cart {
  /** @param {Address} address @param {number} index */
  constructor(address, index) {
    this.index = index;
    this.simulation = new Simulation(setting);
    this.client = new PolicyClient(
      address,
      (answer) => this._take(answer),
      (status, reason) => this._hear(status, reason),
    );
    this.seq = 0; // of the question about the present state
    this.askedAt = 0; // when it was sent, ms
    /** @type {Answer | null} to it */
    this.answer = null;
    /** @type {State} as the policy was asked */
    this.observed = [...this.simulation.state];
    /** @type {Action} */
    this.last = null;
    this.missing = 0; // answers in a row
    this.fallenAt = 0;
    this.probedAt = 0;
    this.dropped = new Random(setting.seed ^ 0x0d03);
  }

  /** @param {State | null} [start] */
  begin(start) {
    this.simulation.begin(setting, start);
    this.dropped = new Random(setting.seed ^ 0x0d03);
    this.last = null;
    this.missing = 0;
    this.fallenAt = this.simulation.fallen ? performance.now() : 0;
    this.observeAndAsk();
  }

  observeAndAsk() {
    this.observed = this.simulation.observe();
    this.seq = ++lastSeq;
    this.askedAt = performance.now();
    this.answer = null;
    if (visible) this.client.ask(this.observed, this.seq);
  }

  /** Whether a run that has not begun should wait for the policy's first answer. */
  isWaiting() {
    const status = this.client.status;
    if (this.simulation.steps > 0 || this.answer !== null || drive || status === "none" || status === "key") return false;
    return performance.now() - begunAt < FIRST_ANSWER_WAIT;
  }

  /**
   * Whether the answer may still come in time: each has a whole step's time from its question on. Where the steps are late
   * because this loop was, the service is not to blame.
   * @param {number} interval  ms
   */
  mayBeAnswered(interval) {
    const answers = this.client.status === "stream" || this.client.status === "http";
    const asked = answers && this.answer === null && !this.simulation.fallen;
    return asked && performance.now() - this.askedAt < interval;
  }

  /** One step. */
  tick() {
    if (this.simulation.fallen) {
      this._lie();
      return;
    }
    const { action, controller } = this._decide();
    const answer = this.answer;
    const asked = this.observed;
    const seq = this.seq;

    this.simulation.move(action);
    if (this.simulation.fallen) this.fallenAt = performance.now();
    postMessage({
      kind: "step",
      cart: this.index,
      time: performance.now(),
      seq,
      asked,
      answer,
      action,
      applied: this.simulation.applied,
      controller,
      steps: this.simulation.steps,
      state: this.simulation.state,
      fallen: this.simulation.fallen,
    });
    if (this.simulation.fallen) this.answer = null;
    else this.observeAndAsk();
  }

  /** @returns {{action: Action, controller: Controller}} */
  _decide() {
    const arrived = this.answer !== null && !(setting.dropped > 0 && this.dropped.next() < setting.dropped);
    this.missing = arrived ? 0 : this.missing + 1;
    if (drive) return { action: driven, controller: "you" };
    if (arrived && this.answer !== null) {
      this.last = this.answer.action;
      return { action: this.last, controller: "policy" };
    }
    if (this.missing > HOLD_STEPS) this.last = null;
    return { action: this.last, controller: this.last === null ? "nobody" : "held" };
  }

  _lie() {
    this.simulation.settle();
    const now = performance.now();
    postMessage({ kind: "lying", cart: this.index, state: this.simulation.state });
    const answers = this.client.status === "stream" || this.client.status === "http";
    if (this.answer === null && now - this.probedAt > PROBE_INTERVAL) {
      this.probedAt = now;
      this.observed = [0, 0, 0, 0];
      this.seq = ++lastSeq;
      if (visible) this.client.ask(this.observed, this.seq);
    }
    if (now - this.fallenAt < LYING_TIME || (!drive && !(answers && this.answer !== null))) return;
    if (this.index === 0) beginRun(true);
    else if (!carts[0].simulation.fallen) this.begin([...carts[0].simulation.state]);
  }

  /** @param {string} status @param {string} reason */
  _hear(status, reason) {
    postMessage({ kind: "status", cart: this.index, status, reason });
    // The present state may not have been asked, or its answer may be lost with the connection.
    if (visible && this.answer === null && this.seq > 0 && status !== "key") this.client.ask(this.observed, this.seq);
  }

  /** @param {Answer} answer */
  _take(answer) {
    postMessage({ kind: "answer", cart: this.index, roundTrip: answer.roundTrip, time: performance.now() });
    if (answer.seq === this.seq) {
      this.answer = answer;
      postMessage({ kind: "decision", cart: this.index, seq: this.seq, asked: this.observed, answer });
    }
  }
}

/** Asks the second policy about the first one's states, and counts where their actions differ. */
class Comparison {
  /** @param {Address} address */
  constructor(address) {
    /** @type {Map<number, {state: State, first: Answer}>} */
    this._asked = new Map();
    this.client = new PolicyClient(address, (answer) => this._take(answer), () => {});
  }

  /** @param {State} state @param {Answer} first */
  ask(state, first) {
    const seq = ++lastSeq;
    if (this._asked.size > 50) this._asked.clear();
    if (this.client.ask(state, seq)) this._asked.set(seq, { state, first });
  }

  /** @param {Answer} second */
  _take(second) {
    const asked = this._asked.get(second.seq);
    this._asked.delete(second.seq);
    if (asked === undefined) return;
    postMessage({ kind: "compared", state: asked.state, first: asked.first, second });
  }
}

/** @type {Readonly<Setting>} the plant that the policy is for, as it is */
let base = DEFAULT_SETTING;
/** @type {Setting} */
let setting = { ...base };
/** @type {Cart[]} */
let carts = [];
/** @type {Comparison | null} */
let comparison = null;
let lastSeq = 0;
let visible = true;
let paused = false;
let speed = 1;
let drive = false;
/** @type {Action} */
let driven = null;
let begunAt = 0; // when the present run began
let dueAt = 0; // when the next step is due
let ticks = 0;
let tickedAt = 0; // when the last step was made
/** @type {ReturnType<typeof setTimeout> | undefined} */
let timer;

/** @param {boolean} next  whether it is the next of several: a scenario draws anew */
function beginRun(next) {
  if (next) {
    const scenario = SCENARIOS.some((each) => each.name === setting.preset);
    const seed = (setting.seed + 1) >>> 0;
    setting = scenario ? { ...settingOf(setting.preset, seed, base), start: setting.start } : { ...setting, seed };
  }
  begunAt = performance.now();
  for (const cart of carts) cart.begin();
  postMessage({ kind: "run", setting, next });
}

function tick() {
  ticks += 1;
  tickedAt = performance.now();
  const [first] = carts;
  if (comparison !== null && first.answer !== null && !first.simulation.fallen) {
    comparison.ask(first.observed, first.answer);
  }
  for (const cart of carts) cart.tick();
  endScenario(first.simulation);
}

/** A scenario's run that lasted its steps is survived, and the next one begins. @param {Simulation} simulation */
function endScenario(simulation) {
  const scenario = SCENARIOS.find((each) => each.name === setting.preset);
  if (scenario === undefined || simulation.fallen || simulation.steps < stepsOf(scenario, base) || drive) return;
  postMessage({ kind: "survived", preset: setting.preset, steps: simulation.steps });
  beginRun(true);
}

/** Take the step that is due, and wait for the next: the steps keep to real time, however late a timer is. */
function run() {
  const now = performance.now();
  const interval = setting.stepTime / speed;
  if (now >= dueAt) {
    if (carts.some((cart) => cart.isWaiting())) {
      dueAt = now + 2;
    } else if (carts.some((cart) => cart.mayBeAnswered(interval))) {
      timer = setTimeout(run, 1);
      return;
    } else {
      if (now - dueAt > LONGEST_CATCH_UP) {
        postMessage({ kind: "late", milliseconds: now - dueAt });
        dueAt = now;
      }
      tick();
      dueAt += interval;
    }
  }
  // One step a turn, also where several are due: between them the answers can come in.
  timer = setTimeout(run, Math.max(0, dueAt - performance.now()));
}

/** Let the steps begin or end, as it should be now. */
function schedule() {
  clearTimeout(timer);
  timer = undefined;
  if (paused || !visible || carts.length === 0) return;
  dueAt = performance.now() + setting.stepTime / speed;
  timer = setTimeout(run, setting.stepTime / speed);
}

/** @type {Record<string, (message: any) => void>} */
const handlers = {
  /** @param {{address: Address, setting: Setting, base: Readonly<Setting>, visible: boolean}} message */
  start(message) {
    setting = message.setting;
    base = message.base;
    visible = message.visible;
    carts = [new Cart(message.address, 0)];
    beginRun(false);
    schedule();
  },
  /** @param {{setting: Setting, base: Readonly<Setting>, begin: boolean}} message */
  set(message) {
    const stepTime = setting.stepTime;
    setting = message.setting;
    base = message.base;
    if (message.begin) beginRun(false);
    else for (const cart of carts) cart.simulation.setting = setting;
    if (message.begin || stepTime !== setting.stepTime) schedule();
  },
  /** @param {{change: number}} message */
  push(message) {
    for (const cart of carts) if (!cart.simulation.fallen) cart.simulation.push(message.change);
  },
  reset() {
    beginRun(true);
    schedule();
  },
  /** @param {{state: State}} message */
  drop(message) {
    begunAt = performance.now();
    for (const cart of carts) cart.begin(message.state);
    postMessage({ kind: "run", setting, next: false });
    schedule();
  },
  /** @param {{paused: boolean}} message */
  pause(message) {
    paused = message.paused;
    schedule();
  },
  step() {
    if (paused && visible) tick();
  },
  /** @param {{speed: number}} message */
  speed(message) {
    speed = message.speed;
    schedule();
  },
  /** @param {{on: boolean}} message */
  drive(message) {
    drive = message.on;
    driven = null;
    beginRun(false);
    schedule();
  },
  /** @param {{action: Action}} message */
  driven(message) {
    driven = message.action;
  },
  /** @param {{visible: boolean}} message */
  visibility(message) {
    visible = message.visible;
    if (!visible) {
      for (const client of clients()) client.close();
    } else if (carts.length > 0) {
      begunAt = performance.now();
      for (const cart of carts) if (!cart.simulation.fallen) cart.observeAndAsk();
    }
    schedule();
  },
  /** @param {{cart: number, key: string | null}} message */
  key(message) {
    carts[message.cart]?.client.setKey(message.key);
    if (message.cart === 1) comparison?.client.setKey(message.key);
    begunAt = performance.now();
    carts[message.cart]?.observeAndAsk();
  },
  /** @param {{address: Address | null, key: string | null}} message */
  compare(message) {
    for (const client of clients().slice(1)) client.close();
    carts = carts.slice(0, 1);
    comparison = null;
    if (message.address !== null) {
      carts.push(new Cart(message.address, 1));
      comparison = new Comparison(message.address);
      carts[1].client.setKey(message.key);
      comparison.client.setKey(message.key);
    }
    beginRun(false);
    schedule();
  },
};

/** @returns {PolicyClient[]} */
function clients() {
  const all = carts.map((cart) => cart.client);
  return comparison === null ? all : [...all, comparison.client];
}

setInterval(() => postMessage({ kind: "clock", ticks, time: tickedAt }), 500);
onmessage = (event) => handlers[event.data.kind](event.data);
