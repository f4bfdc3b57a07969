/**
 * Makes a link worse than it is, for tests and drills: what is *sent* through the wrapper is delayed,
 * lost, repeated, damaged or out of order, as a seeded generator says. Wrap both ends to hurt both
 * directions. Receiving is untouched.
 */
import type { RomulusError } from '../base/errors.ts';
import type { Prng } from '../base/prng.ts';
import type { Frame } from '../codec/frame.ts';
import type { Link, LinkCounters, LinkEnd } from './link.ts';

export interface LinkFaults {
  readonly delayMsMin?: number;
  readonly delayMsMax?: number;
  /** Chances of each frame, 0 to 1. */
  readonly lossChance?: number;
  readonly repeatChance?: number;
  readonly damageChance?: number;
  /** Chance that a frame's delay does not hold back those after it. */
  readonly reorderChance?: number;
}

/** A link whose outgoing frames suffer. */
export class FaultyLink implements Link {
  readonly #inner: Link;
  readonly #prng: Prng;
  readonly #timers = new Set<NodeJS.Timeout>();
  /** Delayed frames that keep their order: each of their timers sends the oldest. */
  readonly #inOrder: Buffer[] = [];
  #faults: LinkFaults;
  #isCut = false;
  #delayedBytes = 0;
  #lastDueMs = 0;

  constructor(inner: Link, prng: Prng, faults: LinkFaults = {}) {
    this.#inner = inner;
    this.#prng = prng;
    this.#faults = faults;
    inner.onClose(() => this.#forgetDelayed());
  }

  get name(): string {
    return `${this.#inner.name} with faults`;
  }

  get isOpen(): boolean {
    return this.#inner.isOpen;
  }

  get queuedBytes(): number {
    return this.#inner.queuedBytes + this.#delayedBytes;
  }

  get counters(): LinkCounters {
    return this.#inner.counters;
  }

  /** Changes what happens to frames from now on. */
  setFaults(faults: LinkFaults): void {
    this.#faults = faults;
  }

  /** Silence: what is sent from now on vanishes, and the other side notices nothing. */
  cut(): void {
    this.#isCut = true;
  }

  heal(): void {
    this.#isCut = false;
  }

  send(parts: readonly Uint8Array[]): boolean {
    if (!this.isOpen) return false;
    const { lossChance = 0, repeatChance = 0 } = this.#faults;
    if (this.#isCut || this.#prng.chance(lossChance)) return true;
    const isRepeated = this.#prng.chance(repeatChance);
    const hasRoom = this.#sendOnce(parts);
    return isRepeated ? this.#sendOnce(parts) : hasRoom;
  }

  together(act: () => void): void {
    this.#inner.together(act);
  }

  pause(): void {
    this.#inner.pause();
  }

  resume(): void {
    this.#inner.resume();
  }

  onMessage(listener: (frame: Frame) => void): void {
    this.#inner.onMessage(listener);
  }

  onDrain(listener: () => void): void {
    this.#inner.onDrain(listener);
  }

  onClose(listener: (end: LinkEnd) => void): void {
    this.#inner.onClose(listener);
  }

  close(error?: RomulusError): void {
    // A farewell comes last, and no delayed frame may follow it.
    this.#forgetDelayed();
    this.#inner.close(error);
  }

  destroy(): void {
    this.#forgetDelayed();
    this.#inner.destroy();
  }

  #sendOnce(parts: readonly Uint8Array[]): boolean {
    const {
      delayMsMin = 0,
      delayMsMax = delayMsMin,
      reorderChance = 0,
      damageChance = 0,
    } = this.#faults;
    const isDamaged = this.#prng.chance(damageChance);
    const spreadMs = delayMsMax - delayMsMin;
    const delayMs = delayMsMin + this.#prng.nextFloat() * spreadMs;
    const isReordered = this.#prng.chance(reorderChance);
    if (delayMs === 0 && !isDamaged) return this.#inner.send(parts);

    // The caller may use its memory again before a delayed frame goes out.
    const frame = Buffer.concat(parts);
    if (isDamaged) {
      const index = this.#prng.nextBelow(frame.byteLength);
      frame[index] = (frame[index] ?? 0) ^ (1 << this.#prng.nextBelow(8));
    }
    const nowMs = performance.now();
    const ownDueMs = nowMs + delayMs;
    const dueMs = isReordered ? ownDueMs : Math.max(ownDueMs, this.#lastDueMs);
    if (!isReordered) {
      this.#lastDueMs = dueMs;
      this.#inOrder.push(frame);
    }
    this.#delayedBytes += frame.byteLength;
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      const due = isReordered ? frame : (this.#inOrder.shift() ?? frame);
      this.#delayedBytes -= due.byteLength;
      this.#inner.send([due]);
    }, dueMs - nowMs);
    this.#timers.add(timer);
    return true;
  }

  #forgetDelayed(): void {
    for (const timer of this.#timers) clearTimeout(timer);
    this.#timers.clear();
    this.#inOrder.length = 0;
    this.#delayedBytes = 0;
  }
}
