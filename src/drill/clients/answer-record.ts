/** When answers came, and how long none did. Pure: instants are given. */

/** Answers recorded of one client; at one every 10 ms that is an hour. */
export const ANSWERS_MAX = 360_000;

/** The instants of one client's answers, milliseconds of CLOCK_MONOTONIC, ascending. */
export class AnswerRecord {
  readonly #atMs = new Float64Array(ANSWERS_MAX);
  #count = 0;
  #beyond = 0;

  get count(): number {
    return this.#count;
  }

  /** More answers came than could be recorded. */
  get overflowed(): boolean {
    return this.#beyond > 0;
  }

  note(atMs: number): void {
    if (this.#count === ANSWERS_MAX) this.#beyond += 1;
    else {
      this.#atMs[this.#count] = atMs;
      this.#count += 1;
    }
  }

  countSince(fromMs: number): number {
    return this.#count - this.#firstFrom(fromMs);
  }

  /**
   * The longest time without an answer that ended, or had not ended, after `fromMs`; up to `untilMs`,
   * when it was last looked at.
   */
  longestGapMs(fromMs: number, untilMs: number): number {
    const first = this.#firstFrom(fromMs);
    let previousMs = first === 0 ? fromMs : (this.#atMs[first - 1] ?? fromMs);
    let longestMs = 0;
    for (let index = first; index < this.#count; index += 1) {
      const atMs = this.#atMs[index] ?? previousMs;
      longestMs = Math.max(longestMs, atMs - previousMs);
      previousMs = atMs;
    }
    return Math.max(longestMs, untilMs - previousMs);
  }

  /** Index of the first answer not before an instant. */
  #firstFrom(fromMs: number): number {
    let low = 0;
    let high = this.#count;
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((this.#atMs[middle] ?? 0) >= fromMs) high = middle;
      else low = middle + 1;
    }
    return low;
  }
}
