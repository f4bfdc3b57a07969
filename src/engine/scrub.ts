/**
 * A comparison of the two images at the very same epoch, while the machine runs. The next
 * checkpoint is chosen: both sides take their digest in step with it, the primary's thread right
 * after capturing it, the backup's right after applying it. A checkpoint that is skipped, or an
 * answer for another epoch, moves the comparison on to the next one.
 *
 * It holds one comparison at a time and sends nothing itself.
 */
import { RomulusError } from '../base/errors.ts';
import type { Epoch } from '../base/units.ts';

/** Longest wait for both digests, an epoch of ordinary length included, milliseconds. */
export const SCRUB_WAIT_MS = 100_000;

/** Digests of both images at the same epoch. */
export interface ScrubResult {
  readonly epoch: number;
  readonly primary: string;
  readonly backup: string;
  readonly match: boolean;
}

interface Waiting {
  readonly resolve: (result: ScrubResult) => void;
  readonly reject: (error: RomulusError) => void;
  readonly timer: NodeJS.Timeout;
  epoch: Epoch | null;
  primary: string | null;
  backup: string | null;
}

/** At most one comparison under way. */
export class Scrub {
  #waiting: Waiting | null = null;

  /** A comparison was asked for and has no epoch yet. */
  get wanted(): boolean {
    return this.#waiting !== null && this.#waiting.epoch === null;
  }

  /**
   * Asks for a comparison.
   * @throws {RomulusError} ERR_LIMIT_SCRUB when one is under way, ERR_TIMEOUT_SCRUB.
   */
  start(): Promise<ScrubResult> {
    if (this.#waiting !== null)
      return Promise.reject(
        new RomulusError('ERR_LIMIT_SCRUB', 'the images are being compared already', {
          remedy: 'Wait for the comparison that is under way.',
        }),
      );
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.fail(
          new RomulusError('ERR_TIMEOUT_SCRUB', `no two digests within ${SCRUB_WAIT_MS} ms`, {
            remedy: 'Shorten the interval if epochs are as long as that; see the logs of both.',
          }),
        );
      }, SCRUB_WAIT_MS);
      this.#waiting = { resolve, reject, timer, epoch: null, primary: null, backup: null };
    });
  }

  /** The checkpoint of this epoch is about to be taken: compare at it. */
  begin(epoch: Epoch): void {
    if (this.#waiting === null) return;
    this.#waiting.epoch = epoch;
    this.#waiting.primary = null;
    this.#waiting.backup = null;
  }

  /** That checkpoint was not taken after all. */
  skipped(epoch: Epoch): void {
    if (this.#waiting?.epoch === epoch) this.#waiting.epoch = null;
  }

  notePrimary(epoch: Epoch, digest: bigint): void {
    if (this.#waiting?.epoch !== epoch) return;
    this.#waiting.primary = digestText(digest);
    this.#finish();
  }

  noteBackup(epoch: Epoch, digest: string): void {
    if (this.#waiting === null || this.#waiting.epoch === null) return;
    if (this.#waiting.epoch === epoch) this.#waiting.backup = digest;
    else this.#waiting.epoch = null;
    this.#finish();
  }

  /** There will be no answer. */
  fail(error: RomulusError): void {
    const waiting = this.#waiting;
    if (waiting === null) return;
    this.#waiting = null;
    clearTimeout(waiting.timer);
    waiting.reject(error);
  }

  #finish(): void {
    const waiting = this.#waiting;
    if (waiting === null || waiting.epoch === null) return;
    const { epoch, primary, backup } = waiting;
    if (primary === null || backup === null) return;
    this.#waiting = null;
    clearTimeout(waiting.timer);
    waiting.resolve({ epoch, primary, backup, match: primary === backup });
  }
}

/** A digest as it is written everywhere: 16 hexadecimal digits. */
export function digestText(digest: bigint): string {
  return digest.toString(16).padStart(16, '0');
}
