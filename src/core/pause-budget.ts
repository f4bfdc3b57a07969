/**
 * How much standing still may be asked of the machine for the sake of output that waits.
 *
 * A budget of milliseconds: time fills it, `PAUSE_SHARE_MAX` of what passes, and every pause is paid
 * from it. Full, it pays for a few pauses in quick succession, so that a request after a quiet while
 * is answered at once, with the few that follow it; empty, pauses come as far apart as their share of
 * the time demands.
 *
 * The bound: in any stretch of time, the pauses that waiting output asked for last no longer than
 * `PAUSE_SHARE_MAX * stretch + PAUSE_BURST_MS`, and the one that takes the last of it. Pauses at the end
 * of the operator's interval are paid as well, but begin whether or not they can be: what they leave to
 * be made up for is never more than the longest of them.
 *
 * Pure: is told the time.
 */

/** Waiting output makes the machine stand for no more than this part of the time, over long. */
export const PAUSE_SHARE_MAX = 0.25;

/** What it may take on top, after a quiet while: milliseconds of pauses. */
export const PAUSE_BURST_MS = 50;

/** See the head of this file. */
export class PauseBudget {
  #leftMs = PAUSE_BURST_MS;
  #countedAtMs = Number.NEGATIVE_INFINITY;

  /** When the next pause may begin that waiting output asks for, in milliseconds. */
  get affordableAtMs(): number {
    return this.#countedAtMs + Math.max(0, -this.#leftMs) / PAUSE_SHARE_MAX;
  }

  /** A pause is about to be asked for. */
  asked(nowMs: number): void {
    const earnedMs = (nowMs - this.#countedAtMs) * PAUSE_SHARE_MAX;
    this.#leftMs = Math.min(this.#leftMs + earnedMs, PAUSE_BURST_MS);
    this.#countedAtMs = nowMs;
  }

  /** The pause asked for lasted so long. */
  pay(pauseMs: number): void {
    const isInDebt = this.#leftMs < 0;
    this.#leftMs = isInDebt ? Math.min(this.#leftMs, -pauseMs) : this.#leftMs - pauseMs;
  }
}
