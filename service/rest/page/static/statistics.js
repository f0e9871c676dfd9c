/** Figures that several panels need. */

/**
 * Wilson's score interval of a success rate (Wilson 1927), 95 %.
 * @param {number} successes
 * @param {number} episodes
 * @returns {[number, number]}
 */
export function wilson(successes, episodes) {
  const z = 1.959963984540054;
  const rate = successes / episodes;
  const scale = 1 + (z * z) / episodes;
  const centre = rate + (z * z) / (2 * episodes);
  const spread = z * Math.sqrt((rate * (1 - rate)) / episodes + (z * z) / (4 * episodes * episodes));
  return [Math.max(0, (centre - spread) / scale), Math.min(1, (centre + spread) / scale)];
}

/**
 * A quantile of numbers in ascending order, by the nearest rank.
 * @param {ArrayLike<number>} sorted
 * @param {number} share  0 … 1
 */
export function quantile(sorted, share) {
  if (sorted.length === 0) return NaN;
  return sorted[Math.min(sorted.length - 1, Math.max(0, Math.ceil(share * sorted.length) - 1))];
}

/**
 * A quantile from the counts of a Prometheus histogram, linear inside its bucket as `histogram_quantile` does it.
 * @param {[number, number][]} buckets  upper bound and cumulative count, ascending; the last bound is Infinity
 * @param {number} share  0 … 1
 */
export function histogramQuantile(buckets, share) {
  const total = buckets.length ? buckets[buckets.length - 1][1] : 0;
  if (!(total > 0)) return NaN;
  const rank = share * total;
  let below = 0;
  let low = 0;
  for (const [bound, count] of buckets) {
    if (count >= rank) {
      if (bound === Infinity) return low;
      return low + ((bound - low) * (rank - below)) / Math.max(count - below, Number.MIN_VALUE);
    }
    below = count;
    low = bound;
  }
  return low;
}
