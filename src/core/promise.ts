/**
 * Promises: the arithmetic that keeps two clocks from disagreeing about who may be heard.
 *
 * A backup answers every epoch and every heartbeat with "I will not promote for `promiseMs` after
 * receiving this". The primary counts from when it *sent* what is answered, which was earlier, and
 * takes off a margin for clocks that run at different speeds:
 *
 *     backup    promisedUntil = receivedAt + promise
 *     primary   heldUntil     = sentAt + promise * (1 - drift) - margin
 *
 * With sentAt <= receivedAt in real time, and clocks whose speeds differ by less than the margin
 * allows, heldUntil comes before promisedUntil: the primary's right to release ends first. The
 * argument is that of leases (Gray and Cheriton, SOSP 1989) without a server that grants them.
 *
 * All times are milliseconds of the caller's own monotonic clock; the two clocks are never compared.
 */
import { assert } from '../base/assert.ts';
import type { Instance } from './register.ts';

/** How much of a promise the primary does not count on. */
export interface PromiseMargin {
  /** Largest difference in speed between two hosts' clocks, as a fraction. */
  readonly driftFraction: number;
  /** Taken off on top, for what is between the check of the clock and the write, in milliseconds. */
  readonly marginMs: number;
}

/** Twice what NTP-disciplined hosts are ever seen to differ by, many times over. */
export const DEFAULT_PROMISE_MARGIN: PromiseMargin = { driftFraction: 0.05, marginMs: 1 };

/** How long a backup promises not to promote, in milliseconds, unless told otherwise. */
export const DEFAULT_PROMISE_MS = 40;

/** The longest promise that is believed: a backup that promises more is not slower to promote. */
export const PROMISE_MS_MAX = 10_000;

/** When the right to release ends, on the primary's clock. */
export function heldUntilMs(sentAtMs: number, promiseMs: number, margin: PromiseMargin): number {
  const believedMs = Math.min(Math.max(promiseMs, 0), PROMISE_MS_MAX);
  return sentAtMs + believedMs * (1 - margin.driftFraction) - margin.marginMs;
}

/** Until when a backup must not promote, on its own clock. */
export function promisedUntilMs(receivedAtMs: number, promiseMs: number): number {
  return receivedAtMs + promiseMs;
}

/** The promises a primary holds of the one instance it listens to. Only ever raised. */
export class HeldPromise {
  readonly #margin: PromiseMargin;
  #instance: Instance | null = null;
  #untilMs = Number.NEGATIVE_INFINITY;

  constructor(margin: PromiseMargin) {
    assert(margin.driftFraction >= 0 && margin.driftFraction < 1, 'drift is a fraction below one');
    assert(margin.marginMs >= 0, 'the margin shortens a promise');
    this.#margin = margin;
  }

  get instance(): Instance | null {
    return this.#instance;
  }

  /** Until when output may be released, in milliseconds; minus infinity when never promised. */
  get untilMs(): number {
    return this.#untilMs;
  }

  /** Listens to another instance from now on: what the last one promised no longer counts. */
  listenTo(instance: Instance | null): void {
    this.#instance = instance;
    this.#untilMs = Number.NEGATIVE_INFINITY;
  }

  /** Counts a promise; true when it raised the time until which output may be released. */
  raise(instance: Instance, sentAtMs: number, promiseMs: number): boolean {
    if (instance !== this.#instance) return false;
    const untilMs = heldUntilMs(sentAtMs, promiseMs, this.#margin);
    // Written so that a promise that is not a number raises nothing.
    if (!(untilMs > this.#untilMs)) return false;
    this.#untilMs = untilMs;
    return true;
  }
}
