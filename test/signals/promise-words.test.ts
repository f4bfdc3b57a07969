/**
 * Goal: the words keep their rules whatever two threads do at the same time. Method: each rule by
 * itself, then a worker that extends without pause while this thread seals and unseals.
 */
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { describe, expect, it } from 'vitest';
import { PromiseWords } from '../../src/signals/promise-words.ts';

describe('PromiseWords', () => {
  it('only ever raises the promise', () => {
    const words = new PromiseWords();
    expect(words.extendPromise(50n)).toBe(true);
    expect(words.extendPromise(20n)).toBe(true);
    expect(words.seal()).toBe(50n);
  });

  it('promises nothing while sealed, and remembers what was promised', () => {
    const words = new PromiseWords();
    const other = new PromiseWords(words.buffer);
    words.extendPromise(50n);
    expect(words.seal()).toBe(50n);
    expect(words.seal()).toBe(50n);
    expect(other.sealed).toBe(true);
    expect(other.extendPromise(90n)).toBe(false);
    words.unseal();
    words.unseal();
    expect(other.extendPromise(40n)).toBe(true);
    // The promise until 50 was given before the seal and still stands.
    expect(words.seal()).toBe(50n);
  });

  it('only ever raises the held promise, until it is reset', () => {
    const words = new PromiseWords();
    expect(words.heldUntilNs()).toBe(0n);
    expect(words.raiseHeld(70n)).toBe(true);
    expect(words.raiseHeld(60n)).toBe(false);
    expect(words.heldUntilNs()).toBe(70n);
    words.resetHeld();
    expect(words.heldUntilNs()).toBe(0n);
  });

  it('lets no promise count while the partner changes', () => {
    const words = new PromiseWords();
    words.raiseHeld(70n);
    words.barHeld();
    expect(words.raiseHeld(90n)).toBe(false);
    expect(words.heldUntilNs()).toBe(0n);
    words.resetHeld();
    expect(words.raiseHeld(90n)).toBe(true);
  });

  it('notes when the link was last heard', () => {
    const words = new PromiseWords();
    words.noteLinkHeard(5n);
    words.noteLinkHeard(3n);
    expect(words.linkHeardAtNs()).toBe(5n);
  });

  it('keeps the longest time between two heartbeats until it is begun anew, and counts late ones', () => {
    const words = new PromiseWords();
    const other = new PromiseWords(words.buffer);
    expect(words.beatAgeMs(70n)).toBeNull();
    words.noteBeatHeard(10n, null);
    words.noteBeatHeard(20n, { intervalMs: 70.5, isLate: true });
    words.noteBeatHeard(30n, { intervalMs: 9, isLate: false });
    expect(other.beatAgeMs(2_000_030n)).toBe(2);
    expect(other.beatGapMsMax()).toBe(70.5);
    expect(other.beatsLate()).toBe(1);
    other.resetBeatGap();
    words.noteBeatHeard(40n, { intervalMs: 11, isLate: false });
    expect(other.beatGapMsMax()).toBe(11);
    expect(other.beatsLate()).toBe(1);
  });

  it('refuses a buffer of another size', () => {
    expect(() => new PromiseWords(new SharedArrayBuffer(16))).toThrow(/another size/);
  });

  it('never lets a promise pass a seal, with another thread promising all the time', async () => {
    const words = new PromiseWords();
    // The same compare-and-exchange as extendPromise; each success is told to us by a counter.
    const worker = new Worker(
      `const { workerData } = require('node:worker_threads');
       const words = new BigInt64Array(workerData);
       for (let until = 1n; until < 400000n; until += 1n) {
         const current = Atomics.load(words, 0);
         if (current !== -1n && current < until) Atomics.compareExchange(words, 0, current, until);
       }`,
      { eval: true, workerData: words.buffer },
    );
    const exited = once(worker, 'exit');
    let rounds = 0;
    let before = 0n;
    while (worker.threadId !== -1) {
      const untilNs = words.seal();
      expect(untilNs).toBeGreaterThanOrEqual(before);
      before = untilNs;
      for (let spin = 0; spin < 200; spin += 1) expect(words.sealed).toBe(true);
      words.unseal();
      rounds += 1;
      if (rounds % 16 === 0) await new Promise((resolve) => setImmediate(resolve));
    }
    await exited;
    expect(rounds).toBeGreaterThan(0);
  });
});
