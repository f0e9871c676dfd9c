/** A second policy beside the first: the shadow of this service, or the policy of a second service. */

import { element, fixed, make, setText } from "./dom.js";
import { service, Service } from "./service.js";

/** @typedef {import("./policy_client.js").Answer} Answer */

const SHOWN = 8; // states in which the two differ

export class Compare {
  /** @param {(address: import("./policy_client.js").Address | null, key: string | null) => void} onChange */
  constructor(onChange) {
    this._onChange = onChange;
    this._compared = 0;
    this._disagreed = 0;
    const second = new URLSearchParams(location.search).get("compare");
    /** @type {Service | null} */
    this.second = second === null ? null : new Service(`${second.replace(/\/+$/, "")}/`);
    this.shadowShown = false;
    setText(element("own-origin"), location.origin);
    this._listen();
  }

  /** Compare with the second service, where the page's address names one. */
  start() {
    if (this.second === null) return;
    element("compare", "details").open = true;
    element("second", "input").value = this.second.base.replace(/\/$/, "");
    this._begin(this.second.base.replace(/^https?:\/\/|\/$/g, ""), this.second.address, null);
  }

  /** Look whether a shadow is loaded: where keys are on, only the report says so. */
  async findShadow() {
    if (this.second !== null) return;
    const overview = await service.fetch("", { headers: { Accept: "application/json" } });
    if (!overview.ok) return;
    const { endpoints } = await overview.json();
    const mayBe = endpoints.some((/** @type {{path: string}} */ each) => each.path === "/shadow/act");
    const report = mayBe ? await service.fetch("shadow") : null;
    const known = report?.ok === true;
    element("shadow-part").hidden = !known;
    element("no-shadow").hidden = known;
    if (!known || report === null) return;
    const { model, digest } = await report.json();
    setText(element("shadow-text"), `${model}, ${digest.slice(0, 19)}`);
    element("compare", "details").open = true;
  }

  /** The second service says how it answers. @param {string} status @param {string} reason */
  hear(status, reason) {
    element("second-key-form").hidden = this.second === null || status !== "key";
    const banner = element("rival-banner");
    banner.hidden = status === "stream" || status === "http";
    banner.classList.toggle("bad", status === "none");
    setText(banner, status === "key" ? "It asks for a key (under Compare)." : reason || "Connecting");
  }

  /** @param {number[]} state @param {Answer} first @param {Answer} second */
  add(state, first, second) {
    this._compared += 1;
    if (first.action !== second.action) {
      this._disagreed += 1;
      const gaps = [first, second].map(({ qValues: [left, right] }) => fixed(Math.abs(right - left), 2));
      const numbers = state.map((value) => make("td", { class: "number" }, fixed(value, 3)));
      const actions = [first, second].map(({ action }) => make("td", {}, action === 1 ? "right" : "left"));
      const rows = element("differences");
      rows.prepend(make("tr", {}, ...numbers, ...actions, make("td", { class: "number" }, gaps.join(" / "))));
      while (rows.childElementCount > SHOWN) rows.lastElementChild?.remove();
    }
    setText(element("compared"), this._compared.toLocaleString("en"));
    setText(element("disagreed"), this._disagreed.toLocaleString("en"));
  }

  /** @param {string} name @param {import("./policy_client.js").Address | null} address @param {string | null} key */
  _begin(name, address, key) {
    this._compared = this._disagreed = 0;
    element("differences").replaceChildren();
    element("rival").hidden = element("disagreement").hidden = address === null;
    setText(element("rival-name"), `steps, ${name}`);
    this._onChange(address, key);
  }

  _listen() {
    element("shadow").addEventListener("click", () => {
      this.shadowShown = !this.shadowShown;
      element("shadow").setAttribute("aria-pressed", String(this.shadowShown));
      this._begin("the shadow", this.shadowShown ? service.shadowAddress : null, service.key);
    });
    element("second-form", "form").addEventListener("submit", (event) => {
      event.preventDefault();
      const { value } = element("second", "input");
      // A new load: the service allows this page connections to the one address that it is loaded with.
      const { origin, pathname } = new URL(value || location.href);
      const query = value ? `?compare=${encodeURIComponent(origin + pathname.replace(/\/+$/, ""))}` : "";
      location.assign(`${location.pathname}${query}${location.hash}`);
    });
    element("second-key-form", "form").addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.second === null) return;
      this.second.key = element("second-key", "input").value.trim();
      element("second-key", "input").value = "";
      this._onChange(this.second.address, this.second.key);
    });
  }
}
