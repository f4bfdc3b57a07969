/**
 * Whether the next checkpoint copies pages ahead of its pause (pre-copy, as a migration's rounds).
 *
 * It pays when most of what is copied ahead is not written again before the pause: then the guest
 * stands still for the rest alone. A guest that writes the same pages all the time would have each
 * of them copied twice and pay a page fault more for it, so when most of the last copies were in vain
 * a stretch of epochs goes without. A single one in vain proves nothing: a burst of writes may fall
 * into any pause.
 */

/** Below this many dirty pages copying takes less than a scan does. */
const PAGES_MIN = 64;
/** A first copy of so many pages takes long enough for new writes to be worth a second round. */
const LONG_COPY_PAGES = 1024;
/** Copies in vain, less those that paid, at which it rests. */
const VAIN_MAX = 4;
/** Epochs without, until it is tried again. */
const REST_EPOCHS = 32;

/** Decides from what earlier epochs gave. */
export class AheadPolicy {
  #lastPages = 0;
  #restEpochs = 0;
  #vain = 0;

  /** Whether to copy ahead of the next pause. */
  get isWorthwhile(): boolean {
    return this.#restEpochs === 0 && this.#lastPages >= PAGES_MIN;
  }

  /** Whether a round is worth another, given the pages of earlier rounds and of this one. */
  isWorthwhileAgain(earlierPages: number, pages: number): boolean {
    return earlierPages === 0 && pages >= LONG_COPY_PAGES;
  }

  /** Notes an epoch: pages copied ahead of the pause, and in it. */
  record(aheadPages: number, pausePages: number): void {
    this.#lastPages = aheadPages + pausePages;
    if (this.#restEpochs > 0) this.#restEpochs -= 1;
    if (aheadPages === 0) return;
    // More than half of it written again: the pause hardly got shorter.
    const isVain = 2 * pausePages > aheadPages;
    this.#vain = Math.max(0, this.#vain + (isVain ? 1 : -1));
    if (this.#vain < VAIN_MAX) return;
    this.#restEpochs = REST_EPOCHS;
    // One more in vain after the rest, and it rests again.
    this.#vain = VAIN_MAX - 1;
  }
}
