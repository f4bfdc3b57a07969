/** Whether a thing takes longer than another, where both take longer on a slower core. Pure. */

/** One go, and how slow the core was meanwhile: any figure that grows as it gets slower. */
export interface Go {
  /** In any unit of time. */
  readonly took: number;
  readonly slowness: number;
}

/** Each is compared with so many goes of the reference at about the same slowness. */
const NEIGHBOURS = 25;

/**
 * How many times as long as the reference the goes took in all, each compared with those of the reference
 * during which the core was about as slow (matching on a covariate; Stuart, Statistical Science 2010).
 * NaN without goes or reference.
 */
export function matchedRatio(goes: readonly Go[], reference: readonly Go[]): number {
  if (goes.length === 0 || reference.length === 0) return Number.NaN;
  const sorted = [...reference].sort((left, right) => left.slowness - right.slowness);
  const total = (values: readonly Go[]): number => values.reduce((sum, { took }) => sum + took, 0);
  const expected = goes.map((go) => {
    const like = nearest(sorted, go.slowness);
    return total(like) / like.length;
  });
  return total(goes) / expected.reduce((sum, ms) => sum + ms, 0);
}

/** The goes of nearest slowness: a stretch of what is sorted by it. */
function nearest(sorted: readonly Go[], slowness: number): readonly Go[] {
  const distance = (index: number): number =>
    Math.abs((sorted[index]?.slowness ?? Number.POSITIVE_INFINITY) - slowness);
  let to = sorted.findIndex((go) => go.slowness >= slowness);
  if (to < 0) to = sorted.length;
  let from = to;
  while (to - from < NEIGHBOURS && to - from < sorted.length) {
    if (from > 0 && distance(from - 1) <= distance(to)) from -= 1;
    else to += 1;
  }
  return sorted.slice(from, to);
}
