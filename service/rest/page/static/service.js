/** The service that the page came from, and perhaps a second one: their addresses, and the keys, which stay in memory. */

import { authorization } from "./policy_client.js";

export class Service {
  /** @param {string} base  its address, with a slash at the end */
  constructor(base) {
    this.base = base;
    /** @type {string | null} */
    this.key = null;
  }

  /** @param {string} path  without a slash before it */
  url(path) {
    return new URL(path, this.base).href;
  }

  /** Where its policy is asked. @returns {import("./policy_client.js").Address} */
  get address() {
    return { act: this.url("act"), stream: this.url("act/stream").replace(/^http/, "ws") };
  }

  /** Where its shadow is asked. @returns {import("./policy_client.js").Address} */
  get shadowAddress() {
    return { act: this.url("shadow/act"), stream: null };
  }

  /** @param {string} path @param {RequestInit} [options] */
  fetch(path, options = {}) {
    return fetch(this.url(path), { ...options, headers: { ...options.headers, ...authorization(this.key) } });
  }
}

/** The service that the page came from. */
export const service = new Service(new URL("./", document.baseURI).href);
