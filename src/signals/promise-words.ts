/**
 * The words that the heartbeat thread and the main thread share: until when this node has
 * promised not to promote, until when its partner's promise lets it release output, when the
 * link was last heard, when the main thread last ran, when a heartbeat was last heard, the longest time
 * between two, and how many were late. Nothing else is shared between the two.
 *
 * All of them but the count are nanoseconds of CLOCK_MONOTONIC, as `process.hrtime.bigint()` gives them
 * in every thread alike. Each word has one rule, and keeps it by compare-and-exchange, so that no order of
 * events between the threads can break it:
 *
 * - PROMISED_UNTIL only grows, and while it is SEALED nobody promises anything. A promise is in
 *   the word *before* it is on the wire.
 * - HELD_PROMISE_UNTIL only grows, except that it is reset when the partner changes. While the
 *   change is under way it is BARRED: a reply of the old partner that the heartbeat thread is
 *   just handling must not count as the new one's.
 * - LINK_HEARD_AT, MAIN_RAN_AT, BEAT_HEARD_AT and BEATS_LATE only grow.
 * - BEAT_GAP_MAX only grows, except that the main thread begins it anew.
 */
import { assert } from '../base/assert.ts';
import type { HeardInterval } from '../core/failure-detector.ts';

const PROMISED_UNTIL = 0;
const HELD_PROMISE_UNTIL = 1;
const LINK_HEARD_AT = 2;
const MAIN_RAN_AT = 3;
const BEAT_HEARD_AT = 4;
const BEAT_GAP_MAX = 5;
const BEATS_LATE = 6;
const WORD_COUNT = 7;
const BYTES_PER_WORD = 8;
const NS_PER_MS = 1e6;

/** In PROMISED_UNTIL: no promises until unsealed. */
export const SEALED = -1n;
/** In HELD_PROMISE_UNTIL: no promise counts until the change of partner is complete. */
const BARRED = -1n;

/** Bytes of the SharedArrayBuffer that carries the words. */
export const PROMISE_WORDS_BYTES: number = WORD_COUNT * BYTES_PER_WORD;

/** Nanoseconds of CLOCK_MONOTONIC; comparable across the threads and processes of one host. */
export function monotonicNs(): bigint {
  return process.hrtime.bigint();
}

/** Milliseconds, fractional, of the same clock as `monotonicNs`. */
export function monotonicMs(): number {
  return Number(process.hrtime.bigint()) / NS_PER_MS;
}

/** A view of the shared words; every thread makes its own over the same buffer. */
export class PromiseWords {
  readonly buffer: SharedArrayBuffer;
  readonly #words: BigInt64Array;
  /** What the seal replaced; only the thread that sealed knows and needs it. */
  #sealedUntilNs: bigint | null = null;

  constructor(buffer?: SharedArrayBuffer) {
    this.buffer = buffer ?? new SharedArrayBuffer(PROMISE_WORDS_BYTES);
    assert(this.buffer.byteLength === PROMISE_WORDS_BYTES, 'the shared words have another size');
    this.#words = new BigInt64Array(this.buffer);
  }

  /**
   * Records a promise not to promote before `untilNs`. False when the word is sealed: then
   * nothing may be promised. Call it before the promise is sent.
   */
  extendPromise(untilNs: bigint): boolean {
    // Each failed exchange means that the other thread succeeded, so the loop ends.
    for (;;) {
      const current = Atomics.load(this.#words, PROMISED_UNTIL);
      if (current === SEALED) return false;
      if (current >= untilNs) return true;
      if (Atomics.compareExchange(this.#words, PROMISED_UNTIL, current, untilNs) === current) {
        return true;
      }
    }
  }

  /**
   * Stops all promising and tells until when we have promised. Sealing twice gives the same
   * answer twice. Only one thread, the main one, seals.
   */
  seal(): bigint {
    const previous = Atomics.exchange(this.#words, PROMISED_UNTIL, SEALED);
    if (previous === SEALED) {
      assert(this.#sealedUntilNs !== null, 'the promises were sealed by another view of the words');
      return this.#sealedUntilNs;
    }
    this.#sealedUntilNs = previous;
    return previous;
  }

  /** Allows promises again. What was promised before the seal still stands. */
  unseal(): void {
    if (this.#sealedUntilNs === null) return;
    const previous = Atomics.compareExchange(
      this.#words,
      PROMISED_UNTIL,
      SEALED,
      this.#sealedUntilNs,
    );
    assert(previous === SEALED, 'the promises were unsealed by somebody else');
    this.#sealedUntilNs = null;
  }

  /** Whether promising is stopped. */
  get sealed(): boolean {
    return Atomics.load(this.#words, PROMISED_UNTIL) === SEALED;
  }

  /** Raises the held promise; false when it was not higher, or a change of partner is under way. */
  raiseHeld(untilNs: bigint): boolean {
    for (;;) {
      const current = Atomics.load(this.#words, HELD_PROMISE_UNTIL);
      if (current === BARRED || current >= untilNs) return false;
      if (Atomics.compareExchange(this.#words, HELD_PROMISE_UNTIL, current, untilNs) === current) {
        return true;
      }
    }
  }

  /** Until when the partner's promise lets us release; 0 when none is held. */
  heldUntilNs(): bigint {
    const held = Atomics.load(this.#words, HELD_PROMISE_UNTIL);
    return held === BARRED ? 0n : held;
  }

  /** Forgets the held promise, and lets none count until `resetHeld`. */
  barHeld(): void {
    Atomics.store(this.#words, HELD_PROMISE_UNTIL, BARRED);
  }

  /** Forgets the held promise; from now on promises count. */
  resetHeld(): void {
    Atomics.store(this.#words, HELD_PROMISE_UNTIL, 0n);
  }

  /** Notes that bytes of the peer came in on the bulk link: a sign of life. */
  noteLinkHeard(atNs: bigint): void {
    this.#raise(LINK_HEARD_AT, atNs);
  }

  /** When the bulk link was last heard; 0 when never. */
  linkHeardAtNs(): bigint {
    return Atomics.load(this.#words, LINK_HEARD_AT);
  }

  /** Notes that the main thread runs: without that the heartbeat thread falls silent some day. */
  noteMainRan(atNs: bigint): void {
    this.#raise(MAIN_RAN_AT, atNs);
  }

  /** When the main thread last ran. */
  mainRanAtNs(): bigint {
    return Atomics.load(this.#words, MAIN_RAN_AT);
  }

  /** Notes that a heartbeat of the peer, or its answer to one, was heard, and how long after the last. */
  noteBeatHeard(atNs: bigint, heard: HeardInterval | null): void {
    this.#raise(BEAT_HEARD_AT, atNs);
    if (heard === null) return;
    this.#raise(BEAT_GAP_MAX, BigInt(Math.round(heard.intervalMs * NS_PER_MS)));
    if (heard.isLate) Atomics.add(this.#words, BEATS_LATE, 1n);
  }

  /** The longest time between two of them since the beginning, or since it was begun anew. */
  beatGapMsMax(): number {
    return Number(Atomics.load(this.#words, BEAT_GAP_MAX)) / NS_PER_MS;
  }

  /** Begins the longest time between two anew. */
  resetBeatGap(): void {
    Atomics.store(this.#words, BEAT_GAP_MAX, 0n);
  }

  /** How many came late (`HeardInterval`). */
  beatsLate(): number {
    return Number(Atomics.load(this.#words, BEATS_LATE));
  }

  /** How long ago that was, milliseconds; null when never. */
  beatAgeMs(nowNs: bigint): number | null {
    const heardAtNs = Atomics.load(this.#words, BEAT_HEARD_AT);
    return heardAtNs === 0n ? null : Math.max(0, Number(nowNs - heardAtNs) / NS_PER_MS);
  }

  #raise(word: number, toNs: bigint): void {
    for (;;) {
      const current = Atomics.load(this.#words, word);
      if (current >= toNs) return;
      if (Atomics.compareExchange(this.#words, word, current, toNs) === current) return;
    }
  }
}
