/**
 * Whether the next checkpoint copies pages ahead of its pause (pre-copy, as a migration's rounds:
 * each copies what was written during the one before, until one is short, or about as long as the last).
 *
 * It pays when most of what is copied ahead is not written again before the pause: then the guest
 * stands still for the rest alone. It costs a scan more, which takes longer the larger the memory, and
 * takes the processors from the guest and its time from output that waits: so copying must be expected
 * to take a good part of a scan at least. A guest that writes the same pages all the time would have each
 * of them copied in every round and pay a page fault more for each, so when most of the last copies were in vain
 * a stretch of epochs goes without. A single one in vain proves nothing: a burst of writes may fall
 * into any pause.
 */

/** What copying a page out of another process takes, about. */
const COPY_MS_PER_PAGE = 0.0007;
/** Copying is expected to take this part of a scan at least. */
const SCAN_SHARE_MIN = 0.5;
/** Whatever a scan takes: below this many dirty pages there is nothing to gain. */
const PAGES_MIN = 64;
/** An epoch that found fewer pages than expected lowers what is expected to this part at most. */
const FALL_SHARE_MIN = 0.5;
/** What a scan is expected to take moves by this part of the difference with every epoch. */
const DRIFT = 0.25;
/** A copy of so many pages takes long enough for what was written meanwhile to be worth another round. */
const LONG_COPY_PAGES = 1024;
/** Rounds before one pause. */
const ROUNDS_MAX = 4;
/** A round that found this part or more of what the one before found gains on the guest no more ... */
const STEADY_SHARE_MIN = 0.8;
/** ... up to this part: beyond it, a burst of writes began meanwhile. */
const STEADY_SHARE_MAX = 1.25;
/** Copies in vain, less those that paid, at which it rests. */
const VAIN_MAX = 4;
/** Epochs without, until it is tried again. */
const REST_EPOCHS = 32;

/** What one epoch took. */
export interface CopiedEpoch {
  /** What each round ahead of the pause copied, in order. */
  readonly rounds: readonly number[];
  readonly pausePages: number;
  /** Of the scan in the pause, all blocks together. */
  readonly scanMs: number;
}

/** Decides from what earlier epochs gave. */
export class AheadPolicy {
  #expectedPages = 0;
  #scanMs: number | null = null;
  #restEpochs = 0;
  #vain = 0;
  #isRefused = false;

  /** Whether to copy ahead of the next pause. */
  get isWorthwhile(): boolean {
    const copyMs = this.#expectedPages * COPY_MS_PER_PAGE;
    const paysForScan = copyMs >= SCAN_SHARE_MIN * (this.#scanMs ?? 0);
    if (this.#isRefused) return false;
    return this.#restEpochs === 0 && this.#expectedPages >= PAGES_MIN && paysForScan;
  }

  /** Lets `copy` do one round after another, as long as it pays; gives what each of them copied. */
  copyAhead(copy: () => number): number[] {
    const rounds: number[] = [];
    for (let again = this.isWorthwhile; again; again = isWorthwhileAgain(rounds)) {
      rounds.push(copy());
    }
    return rounds;
  }

  /**
   * Notes that no pause came of it. A machine that its user has paused is asked again and again, maybe for
   * days, and must not be scanned each time.
   */
  recordRefusal(): void {
    this.#isRefused = true;
  }

  /** Notes an epoch. */
  record({ rounds, pausePages, scanMs }: CopiedEpoch): void {
    // Rounds copy over what others copied, for the most part.
    const aheadPages = Math.max(0, ...rounds);
    this.#isRefused = false;
    this.#scanMs ??= scanMs;
    this.#scanMs += (scanMs - this.#scanMs) * DRIFT;
    const pages = aheadPages + pausePages;
    // A guest writes by bursts: an epoch between two of them says little about the next.
    this.#expectedPages = Math.max(pages, Math.floor(this.#expectedPages * FALL_SHARE_MIN));
    if (this.#restEpochs > 0) this.#restEpochs -= 1;
    if (aheadPages === 0 || pages < PAGES_MIN) return;
    // More than half of it written again: the pause hardly got shorter.
    const isVain = 2 * pausePages > aheadPages;
    this.#vain = Math.max(0, this.#vain + (isVain ? 1 : -1));
    if (this.#vain < VAIN_MAX) return;
    this.#restEpochs = REST_EPOCHS;
    // One more in vain after the rest, and it rests again.
    this.#vain = VAIN_MAX - 1;
  }
}

/** Whether one more round is worth it, given what each before it copied. */
function isWorthwhileAgain(rounds: readonly number[]): boolean {
  const pages = rounds.at(-1) ?? 0;
  const share = pages / (rounds.at(-2) ?? Number.POSITIVE_INFINITY);
  const isSteady = share >= STEADY_SHARE_MIN && share <= STEADY_SHARE_MAX;
  return rounds.length < ROUNDS_MAX && pages >= LONG_COPY_PAGES && !isSteady;
}
