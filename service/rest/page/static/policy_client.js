/**
 * Asks a service for actions: over its stream, else by one POST a state.
 *
 * A browser cannot send a header with a WebSocket, and a key does not belong into an address, where it would be logged.
 * So with a key every state goes by POST with `Authorization`.
 */

/**
 * @typedef {import("./physics.js").State} State
 *
 * @typedef {object} Answer
 * @property {number} seq
 * @property {0 | 1} action
 * @property {[number, number]} qValues
 * @property {string[]} outOfRange  names of the state values outside what training saw
 * @property {string} digest        of the bundle that answered
 * @property {string} model         its name
 * @property {number} roundTrip     ms
 *
 * @typedef {"connecting" | "stream" | "http" | "key" | "none"} Status  how the service answers; "key": it asks for another key
 *
 * @typedef {object} Address
 * @property {string} act            of POST /act, or of what answers like it
 * @property {string | null} stream  of the WebSocket; null where there is none
 */

const LONGEST_WAIT = 2000; // ms until an answer is given up
const RETRY = 1000; // ms until a service that did not answer is asked again
const STREAM_RETRY = 5000; // ms until the stream is tried again where POST answers
const CONNECT_WAIT = 500; // ms that a stream has to open until POST is used meanwhile
const MOST_WAITING = 4; // questions at the same time: one that does not answer is not asked more and more

export class PolicyClient {
  /**
   * @param {Address} address
   * @param {(answer: Answer) => void} onAnswer
   * @param {(status: Status, reason: string) => void} onStatus
   */
  constructor(address, onAnswer, onStatus) {
    this._address = address;
    this._onAnswer = onAnswer;
    this._onStatus = onStatus;
    /** @type {string | null} */
    this._key = null;
    /** @type {Status} */
    this.status = "connecting";
    /** @type {WebSocket | null} */
    this._socket = null;
    this._connectedAt = 0; // when the stream was last tried
    this._streamAt = 0; // when the stream may be tried again
    this._postAt = 0; // when POST may be tried again
    /** @type {Map<number, number>} when each question was sent that waits for its answer */
    this._sent = new Map();
  }

  /** @param {string | null} key */
  setKey(key) {
    this._key = key;
    this._streamAt = this._postAt = 0;
    if (key !== null) this._close();
    if (this.status === "key") this._become("connecting", "");
  }

  /** Begin to connect, so that the first question need not wait for it. */
  connect() {
    const now = performance.now();
    const wanted = this._key === null && this._address.stream !== null && this.status !== "key";
    if (!wanted || this._socket !== null || now < this._streamAt) return;
    this._connectedAt = now;
    this._streamAt = now + STREAM_RETRY;
    const socket = new WebSocket(/** @type {string} */ (this._address.stream));
    this._socket = socket;

    socket.onopen = () => this._become("stream", "");
    socket.onmessage = (event) => this._read(JSON.parse(event.data), performance.now());
    socket.onclose = (event) => {
      if (this._socket !== socket) return;
      const wasOpen = this.status === "stream";
      this._socket = null;
      this._sent.clear();
      if (wasOpen) {
        this._streamAt = performance.now() + RETRY;
        this._become("connecting", event.reason || "The stream was closed");
      } else {
        this._onStatus(this.status, "");
      }
    };
  }

  /** Let go of the stream: nothing is asked for a while. */
  close() {
    this._close();
    this._streamAt = 0;
  }

  /**
   * Ask for an action; the answer, if one comes, goes to `onAnswer`.
   * @param {State} state
   * @param {number} seq
   * @returns {boolean} whether the question was sent
   */
  ask(state, seq) {
    const now = performance.now();
    for (const [each, sent] of this._sent) if (now - sent > LONGEST_WAIT) this._sent.delete(each);
    this.connect();
    if (this._sent.size >= MOST_WAITING) {
      if (now - Math.max(...this._sent.values()) > RETRY / 2) this._become("none", "The service takes long to answer");
      return false;
    }
    const body = JSON.stringify({ state, seq });

    if (this._socket !== null && this._socket.readyState === WebSocket.OPEN) {
      this._sent.set(seq, now);
      this._socket.send(body);
      return true;
    }
    const connecting = this._socket !== null && this.status === "connecting" && now - this._connectedAt < CONNECT_WAIT;
    if (connecting || this.status === "key" || now < this._postAt) return false;
    this._sent.set(seq, now);
    void this._post(body, seq);
    return true;
  }

  /** @param {string} body @param {number} seq */
  async _post(body, seq) {
    const headers = { "Content-Type": "application/json", ...authorization(this._key) };
    const key = this._key;
    try {
      const signal = AbortSignal.timeout(LONGEST_WAIT);
      const response = await fetch(this._address.act, { method: "POST", body, headers, signal, cache: "no-store" });
      const arrived = performance.now();
      const answer = await response.json();
      if (key !== this._key) return;
      if (response.status === 401 || response.status === 403) {
        this._close();
        this._become("key", answer.detail);
      } else {
        if (this._socket === null || this.status !== "stream") this._become("http", "");
        this._read({ seq, ...answer }, arrived);
      }
    } catch {
      this._postAt = performance.now() + RETRY;
      if (this.status !== "stream") this._become("none", "The service does not answer");
    } finally {
      this._sent.delete(seq);
    }
  }

  /** @param {Record<string, any>} answer @param {number} arrived */
  _read(answer, arrived) {
    const sent = this._sent.get(answer.seq);
    if (sent === undefined) return;
    this._sent.delete(answer.seq);
    if (answer.action === undefined) {
      this._onStatus(this.status, answer.detail ?? "The service refused the state");
      return;
    }
    this._onAnswer({
      seq: answer.seq,
      action: answer.action,
      qValues: answer.q_values,
      outOfRange: answer.out_of_range,
      digest: answer.digest,
      model: answer.model,
      roundTrip: arrived - sent,
    });
  }

  _close() {
    const socket = this._socket;
    this._socket = null;
    this._sent.clear();
    socket?.close();
    if (this.status === "stream") this._become("connecting", "");
  }

  /** @param {Status} status @param {string} reason */
  _become(status, reason) {
    if (status === this.status) return;
    this.status = status;
    this._onStatus(status, reason);
  }
}

/** @param {string | null} key @returns {Record<string, string>} */
export function authorization(key) {
  return key === null ? {} : { Authorization: `Bearer ${key}` };
}
