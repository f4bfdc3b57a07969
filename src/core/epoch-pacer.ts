/**
 * Decides when the next checkpoint is due.
 *
 * The interval is what the operator wants; the queue says what the link can carry. At or above
 * the high watermark the interval doubles with every checkpoint, up to a bound, until the queue
 * falls to the low one. At the queue's limit no checkpoint is due at all. One checkpoint at a time:
 * the next is due only after the last was captured or skipped.
 *
 * Output that waits ends an epoch early, so that whoever talks to the machine need not wait for the
 * interval's end. Two bounds keep that from costing the machine too much: a least distance between
 * checkpoints, which the operator sets, and a budget of time to stand still (`pause-budget.ts`). A
 * third is the caller's business: it is asked for only on a link that has nothing left to carry.
 *
 * Pure: is told the time, holds no timer.
 */
import { assert } from '../base/assert.ts';
import { PauseBudget } from './pause-budget.ts';

/** Fill levels of the event queue that change the pace, in bytes; low < high < limit. */
export interface QueueWatermarks {
  readonly lowBytes: number;
  readonly highBytes: number;
  /** At or above it no checkpoint is asked for at all. */
  readonly limitBytes: number;
}

export const DEFAULT_QUEUE_WATERMARKS: QueueWatermarks = {
  lowBytes: 16 * 1024 * 1024,
  highBytes: 64 * 1024 * 1024,
  limitBytes: 256 * 1024 * 1024,
};

/** A backlog lengthens the interval at most so many times. */
const STRETCH_MAX = 64;

/** Checkpoints that make up for late ones come no closer to each other than this part of an interval. */
const CATCH_UP_FRACTION = 0.5;
/** So many intervals may be made up for; what a longer standstill cost stays lost. */
const CATCH_UP_INTERVALS_MAX = 20;

/** A backlog alone never makes an epoch longer than this, in milliseconds. */
const STRETCHED_INTERVAL_MS_MAX = 10_000;

export interface EpochPacerOptions {
  readonly intervalMs: number;
  /** Least distance of checkpoints that waiting output asks for; 0: it asks for none. */
  readonly minIntervalMs: number;
  readonly watermarks: QueueWatermarks;
}

export class EpochPacer {
  readonly #watermarks: QueueWatermarks;
  #intervalMs: number;
  #minIntervalMs: number;
  #isOutputWaiting = false;
  readonly #pauses = new PauseBudget();
  #stretch = 1;
  #queueBytes = 0;
  #askedAtMs = Number.NEGATIVE_INFINITY;
  /** When the last checkpoint should have been asked for. */
  #plannedAtMs = Number.NEGATIVE_INFINITY;
  #isCapturing = false;

  constructor({ intervalMs, minIntervalMs, watermarks }: EpochPacerOptions) {
    const { lowBytes, highBytes, limitBytes } = watermarks;
    assert(lowBytes >= 0 && lowBytes < highBytes && highBytes < limitBytes, 'low < high < limit');
    this.#watermarks = watermarks;
    this.#intervalMs = checkedIntervalMs(intervalMs);
    this.#minIntervalMs = checkedMinIntervalMs(minIntervalMs);
  }

  get intervalMs(): number {
    return this.#intervalMs;
  }

  get minIntervalMs(): number {
    return this.#minIntervalMs;
  }

  get effectiveIntervalMs(): number {
    const stretchedMs = Math.min(this.#intervalMs * this.#stretch, STRETCHED_INTERVAL_MS_MAX);
    return Math.max(this.#intervalMs, stretchedMs);
  }

  /** Where the queue stands and what that makes of an epoch, in words. */
  get text(): string {
    const mark = this.isBacklogged ? 'above its high' : 'below its low';
    return `the queue is ${mark} watermark; an epoch lasts ${this.effectiveIntervalMs} ms`;
  }

  get isBacklogged(): boolean {
    return this.#stretch > 1;
  }

  get isCapturing(): boolean {
    return this.#isCapturing;
  }

  /** When the next checkpoint is due, in milliseconds; null while none can be. */
  get dueAtMs(): number | null {
    if (this.#isCapturing || this.#queueBytes >= this.#watermarks.limitBytes) return null;
    const intervalMs = this.effectiveIntervalMs;
    return Math.max(
      this.#plannedAtMs + intervalMs,
      this.#askedAtMs + intervalMs * CATCH_UP_FRACTION,
    );
  }

  /**
   * When the next checkpoint is due if the link is free, in milliseconds: earlier than `dueAtMs`
   * while output waits. Null while none can be.
   */
  get dueOnFreeLinkAtMs(): number | null {
    const dueAtMs = this.dueAtMs;
    const isEarly = this.#isOutputWaiting && this.#minIntervalMs > 0 && !this.isBacklogged;
    if (dueAtMs === null || !isEarly) return dueAtMs;
    const { affordableAtMs } = this.#pauses;
    return Math.min(dueAtMs, Math.max(this.#askedAtMs + this.#minIntervalMs, affordableAtMs));
  }

  /** @throws {RangeError} unless positive and finite. */
  setInterval(intervalMs: number): void {
    this.#intervalMs = checkedIntervalMs(intervalMs);
  }

  /** @throws {RangeError} unless finite and not negative; 0: waiting output asks for nothing. */
  setMinInterval(minIntervalMs: number): void {
    this.#minIntervalMs = checkedMinIntervalMs(minIntervalMs);
  }

  /**
   * Output waits for a checkpoint that was not asked for yet. Says nothing while one is being
   * taken, which may cover it: to be said again afterwards if it did not.
   */
  outputWaiting(): void {
    if (!this.#isCapturing) this.#isOutputWaiting = true;
  }

  /** What waited has left, or waits for nothing any more. */
  outputLeft(): void {
    this.#isOutputWaiting = false;
  }

  /** Takes note of the queue; true when that began or ended a backlog. */
  queueLevel(bytes: number): boolean {
    this.#queueBytes = bytes;
    const wasBacklogged = this.isBacklogged;
    if (bytes >= this.#watermarks.highBytes && !wasBacklogged) this.#stretch = 2;
    if (bytes <= this.#watermarks.lowBytes) this.#stretch = 1;
    return this.isBacklogged !== wasBacklogged;
  }

  asked(nowMs: number): void {
    assert(!this.#isCapturing, 'one checkpoint at a time');
    this.#isCapturing = true;
    this.#isOutputWaiting = false;
    // Planned from when it was due: timers fire late, and a millisecond lost at each of a hundred
    // epochs a second would be a tenth of the pace. A backlog is no time to make up for anything.
    const behindMsMax = this.isBacklogged ? 0 : this.#intervalMs * CATCH_UP_INTERVALS_MAX;
    const dueMs = this.#plannedAtMs + this.effectiveIntervalMs;
    const plannedMs = Number.isFinite(dueMs) ? dueMs : nowMs;
    this.#plannedAtMs = Math.min(nowMs, Math.max(plannedMs, nowMs - behindMsMax));
    this.#askedAtMs = nowMs;
    this.#pauses.asked(nowMs);
  }

  /** The checkpoint asked for was captured, in a pause so long; or skipped, without one. */
  answered(pauseMs = 0): void {
    this.#isCapturing = false;
    if (pauseMs > 0) this.#pauses.pay(pauseMs);
    if (this.isBacklogged && this.#queueBytes >= this.#watermarks.highBytes) {
      this.#stretch = Math.min(this.#stretch * 2, STRETCH_MAX);
    }
  }
}

function checkedIntervalMs(intervalMs: number): number {
  if (!(intervalMs > 0) || !Number.isFinite(intervalMs)) {
    throw new RangeError(`the epoch interval must be positive: ${intervalMs} ms`);
  }
  return intervalMs;
}

function checkedMinIntervalMs(minIntervalMs: number): number {
  if (!(minIntervalMs >= 0) || !Number.isFinite(minIntervalMs)) {
    throw new RangeError(`the least interval must not be negative: ${minIntervalMs} ms`);
  }
  return minIntervalMs;
}
