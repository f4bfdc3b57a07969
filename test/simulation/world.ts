/**
 * Virtual time, one random source, and the record of what happened. Everything in a run is a
 * function of the seed: nothing here or above it reads a clock or a random number of its own.
 */
import { Prng } from '../../src/base/prng.ts';

/** A run broke an invariant; the message says which and how. */
export class Violation extends Error {
  override readonly name = 'Violation';
}

interface Entry {
  readonly atMs: number;
  readonly order: number;
  readonly action: () => void;
}

/** So many happenings in one run mean that something runs in circles. */
const HAPPENINGS_MAX = 400_000;

export class World {
  readonly random: Prng;
  /** Real time: no node can read it. */
  nowMs = 0;
  happenings = 0;
  readonly #heap: Entry[] = [];
  readonly #listener: ((line: string) => void) | null;
  #order = 0;

  constructor(seed: number, listener: ((line: string) => void) | null) {
    this.random = new Prng(seed);
    this.#listener = listener;
  }

  get isTraced(): boolean {
    return this.#listener !== null;
  }

  trace(who: string, text: () => string): void {
    if (this.#listener === null) return;
    this.#listener(`${this.nowMs.toFixed(3).padStart(10)} ${who.padEnd(4)} ${text()}`);
  }

  /** Uniform in [low, high). */
  between(low: number, high: number): number {
    return low + (high - low) * this.random.nextFloat();
  }

  after(delayMs: number, action: () => void): void {
    this.#order += 1;
    const entry = { atMs: this.nowMs + Math.max(delayMs, 0), order: this.#order, action };
    const heap = this.#heap;
    let index = heap.push(entry) - 1;
    while (index > 0) {
      const parent = (index - 1) >> 1;
      if (!isBefore(entry, this.#at(parent))) break;
      heap[index] = this.#at(parent);
      index = parent;
    }
    heap[index] = entry;
  }

  runUntil(endMs: number): void {
    for (let entry = this.#heap[0]; entry !== undefined && entry.atMs <= endMs; ) {
      this.#removeFirst();
      this.nowMs = entry.atMs;
      this.happenings += 1;
      if (this.happenings > HAPPENINGS_MAX) throw new Violation('the run never comes to rest');
      entry.action();
      entry = this.#heap[0];
    }
    this.nowMs = endMs;
  }

  #at(index: number): Entry {
    const entry = this.#heap[index];
    if (entry === undefined) throw new RangeError(`no entry ${index}`);
    return entry;
  }

  #removeFirst(): void {
    const heap = this.#heap;
    const last = heap.pop();
    if (last === undefined || heap.length === 0) return;
    let index = 0;
    for (;;) {
      let child = 2 * index + 1;
      if (child >= heap.length) break;
      const right = child + 1;
      if (right < heap.length && isBefore(this.#at(right), this.#at(child))) child = right;
      if (!isBefore(this.#at(child), last)) break;
      heap[index] = this.#at(child);
      index = child;
    }
    heap[index] = last;
  }
}

function isBefore(left: Entry, right: Entry): boolean {
  return left.atMs < right.atMs || (left.atMs === right.atMs && left.order < right.order);
}
