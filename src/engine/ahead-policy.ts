/**
 * Whether the next checkpoint copies pages ahead of its pause (pre-copy, as a migration's rounds).
 *
 * It pays when most of what is copied ahead is not written again before the pause: then the guest
 * stands still for the rest alone. A guest that writes the same pages all the time would have each
 * of them copied twice and pay a page fault more for it, so while copies are mostly in vain ever more
 * epochs go without.
 */

/** Below this many dirty pages copying takes less than a scan does. */
const PAGES_MIN = 64;
/** Epochs without, after a copy that was in vain; twice as many after each that follows. */
const REST_EPOCHS_MIN = 1;
const REST_EPOCHS_MAX = 32;

/** Decides from what earlier epochs gave. */
export class AheadPolicy {
  #lastPages = 0;
  #restEpochs = 0;
  #nextRestEpochs = REST_EPOCHS_MIN;

  /** Whether to copy ahead of the next pause. */
  get isWorthwhile(): boolean {
    return this.#restEpochs === 0 && this.#lastPages >= PAGES_MIN;
  }

  /** Notes an epoch: pages copied ahead of the pause, and in it. */
  record(aheadPages: number, pausePages: number): void {
    this.#lastPages = aheadPages + pausePages;
    if (this.#restEpochs > 0) this.#restEpochs -= 1;
    if (aheadPages === 0) return;
    // More than half of it written again: the pause hardly got shorter.
    if (2 * pausePages > aheadPages) {
      this.#restEpochs = this.#nextRestEpochs;
      this.#nextRestEpochs = Math.min(2 * this.#nextRestEpochs, REST_EPOCHS_MAX);
    } else this.#nextRestEpochs = REST_EPOCHS_MIN;
  }
}
