/** Random numbers that a seed repeats, so that a link shows a colleague the same run. */

/** Marsaglia's and Vigna's mixing steps over a 32-bit counter ("mulberry32"). */
export class Random {
  /** @param {number} seed  a whole number */
  constructor(seed) {
    this._state = seed >>> 0;
  }

  /** @returns {number} uniform in [0, 1) */
  next() {
    this._state = (this._state + 0x6d2b79f5) >>> 0;
    let mixed = this._state;
    mixed = Math.imul(mixed ^ (mixed >>> 15), mixed | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  }

  /**
   * @param {number} low
   * @param {number} high
   */
  uniform(low, high) {
    return low + (high - low) * this.next();
  }

  /** @returns {number} from the standard normal distribution (Box and Muller 1958) */
  normal() {
    const radius = Math.sqrt(-2 * Math.log(1 - this.next()));
    return radius * Math.cos(2 * Math.PI * this.next());
  }
}
