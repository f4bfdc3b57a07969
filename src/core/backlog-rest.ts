/**
 * For how long a backup that fell behind is given no new image. An image costs both sides much, and one
 * that could not keep up a moment ago will hardly do better now: protection that comes and goes every few
 * seconds would be no protection, and the guest would pay for it all the time.
 *
 * Each time the rest is twice as long as the last, up to a bound; after a protection that lasted longer
 * than the longest rest it begins anew. Pure: is told the time.
 */

/** The rest is doubled so many times at most. */
const DOUBLINGS_MAX = 6;

export class BacklogRest {
  readonly #firstMs: number;
  #doublings = -1;
  #untilMs = Number.NEGATIVE_INFINITY;
  #pairedAtMs = Number.POSITIVE_INFINITY;

  constructor(firstMs: number) {
    this.#firstMs = firstMs;
  }

  /** Until when nobody is given an image, in milliseconds. */
  get untilMs(): number {
    return this.#untilMs;
  }

  /** A new image is complete. */
  paired(nowMs: number): void {
    this.#pairedAtMs = nowMs;
  }

  /** The backup fell behind. */
  begin(nowMs: number): void {
    const hasKeptUp = nowMs - this.#pairedAtMs >= this.#firstMs * 2 ** DOUBLINGS_MAX;
    this.#doublings = hasKeptUp ? 0 : Math.min(this.#doublings + 1, DOUBLINGS_MAX);
    this.#pairedAtMs = Number.POSITIVE_INFINITY;
    this.#untilMs = nowMs + this.#firstMs * 2 ** this.#doublings;
  }
}
