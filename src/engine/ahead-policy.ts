/**
 * Whether the next checkpoint copies pages ahead of its pause (pre-copy, as a migration's rounds).
 *
 * It pays when most of what is copied ahead is not written again before the pause: then the guest
 * stands still for the rest alone. It costs a scan more, which takes longer the larger the memory, and
 * takes the processors from the guest and its time from output that waits: so copying must be expected
 * to take a good part of a scan at least. A guest that writes the same pages all the time would have each
 * of them copied twice and pay a page fault more for it, so when most of the last copies were in vain
 * a stretch of epochs goes without. A single one in vain proves nothing: a burst of writes may fall
 * into any pause.
 */

/** What copying a page out of another process takes, about. */
const COPY_MS_PER_PAGE = 0.0007;
/** Copying is expected to take this part of a scan at least. */
const SCAN_SHARE_MIN = 0.5;
/** Whatever a scan takes: below this many dirty pages there is nothing to gain. */
const PAGES_MIN = 64;
/** What a scan is expected to take moves by this part of the difference with every epoch. */
const DRIFT = 0.25;
/** A first copy of so many pages takes long enough for new writes to be worth a second round. */
const LONG_COPY_PAGES = 1024;
/** Copies in vain, less those that paid, at which it rests. */
const VAIN_MAX = 4;
/** Epochs without, until it is tried again. */
const REST_EPOCHS = 32;

/** What one epoch took. */
export interface CopiedEpoch {
  readonly aheadPages: number;
  readonly pausePages: number;
  /** Of the scan in the pause, all blocks together. */
  readonly scanMs: number;
}

/** Decides from what earlier epochs gave. */
export class AheadPolicy {
  #lastPages = 0;
  #scanMs: number | null = null;
  #restEpochs = 0;
  #vain = 0;

  /** Whether to copy ahead of the next pause. */
  get isWorthwhile(): boolean {
    const copyMs = this.#lastPages * COPY_MS_PER_PAGE;
    const paysForScan = copyMs >= SCAN_SHARE_MIN * (this.#scanMs ?? 0);
    return this.#restEpochs === 0 && this.#lastPages >= PAGES_MIN && paysForScan;
  }

  /** Whether a round is worth another, given the pages of earlier rounds and of this one. */
  isWorthwhileAgain(earlierPages: number, pages: number): boolean {
    return earlierPages === 0 && pages >= LONG_COPY_PAGES;
  }

  /** Notes an epoch. */
  record({ aheadPages, pausePages, scanMs }: CopiedEpoch): void {
    this.#scanMs ??= scanMs;
    this.#scanMs += (scanMs - this.#scanMs) * DRIFT;
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
