/**
 * Whether captured pages are encoded while the machine still stands, beside the device state that it
 * is waited for anyway: what is encoded then need not be encoded before the epoch can be sent, and
 * the output that waits for it leaves that much earlier.
 *
 * It must not lengthen the pause, so it is done only when it is expected to take no more than half of
 * what the state took of late to be waited for.
 */

/** Of the time that the state is waited for, encoding is expected to take this part at most. */
const SHARE_MAX = 0.5;
/** What is expected moves by this part of the difference with every epoch. */
const DRIFT = 0.25;

/** What one epoch took. */
export interface EncodingTimes {
  readonly pages: number;
  readonly encodeMs: number;
  /** From the end of the copy until the machine's state was there. */
  readonly stateMs: number;
}

/** Decides from what earlier epochs took. */
export class BesidePolicy {
  #stateMs = 0;
  #msPerPage: number | null = null;

  /** Whether encoding so many pages fits into the wait for the state. */
  fits(pages: number): boolean {
    return this.#msPerPage !== null && pages * this.#msPerPage <= this.#stateMs * SHARE_MAX;
  }

  record({ pages, encodeMs, stateMs }: EncodingTimes): void {
    this.#stateMs += (stateMs - this.#stateMs) * DRIFT;
    if (pages === 0) return;
    const msPerPage = encodeMs / pages;
    this.#msPerPage ??= msPerPage;
    this.#msPerPage += (msPerPage - this.#msPerPage) * DRIFT;
  }
}
