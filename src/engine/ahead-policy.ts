/**
 * Whether the next checkpoint copies pages ahead of its pause (pre-copy, as a migration's rounds).
 *
 * It pays when most of what is copied ahead is not written again before the pause: then the guest
 * stands still for the rest alone. A guest that writes the same pages all the time would have each
 * of them copied twice and pay a page fault more for it, so after a copy that was mostly in vain a
 * number of epochs go without.
 */

/** Below this many dirty pages copying takes less than a scan does. */
const PAGES_MIN = 64;
/** Epochs without, after one that was in vain. */
const REST_EPOCHS = 15;

/** Decides from what earlier epochs gave. */
export class AheadPolicy {
  #restEpochs = 0;
  #lastPages = 0;

  /** Whether to copy ahead of the next pause. */
  get isWorthwhile(): boolean {
    return this.#restEpochs === 0 && this.#lastPages >= PAGES_MIN;
  }

  /** Notes an epoch: pages copied ahead of the pause, and in it. */
  record(aheadPages: number, pausePages: number): void {
    this.#lastPages = aheadPages + pausePages;
    if (this.#restEpochs > 0) this.#restEpochs -= 1;
    // More than half of it written again: the pause hardly got shorter.
    if (aheadPages > 0 && 2 * pausePages > aheadPages) this.#restEpochs = REST_EPOCHS;
  }
}
