/** Goal: one checkpoint at a time, at the pace asked for, slower while the queue is full. */
import { describe, expect, it } from 'vitest';
import { AssertionError } from '../../src/base/assert.ts';
import { EpochPacer, type EpochPacerOptions } from '../../src/core/epoch-pacer.ts';
import { PAUSE_BURST_MS, PAUSE_SHARE_MAX } from '../../src/core/pause-budget.ts';

const MARKS = { lowBytes: 10, highBytes: 100, limitBytes: 1000 };

function pacerOf(intervalMs: number, options: Partial<EpochPacerOptions> = {}): EpochPacer {
  return new EpochPacer({ intervalMs, minIntervalMs: 0, watermarks: MARKS, ...options });
}

describe('epoch pacer', () => {
  it('waits for the checkpoint before', () => {
    const pacer = pacerOf(25);
    pacer.asked(0);
    expect(pacer.dueAtMs).toBeNull();
    expect(() => pacer.asked(1)).toThrow(AssertionError);
    pacer.answered();
    expect(pacer.dueAtMs).toBe(25);
  });

  it('keeps the pace when every checkpoint is asked for a little late', () => {
    const pacer = pacerOf(10, { watermarks: { lowBytes: 1, highBytes: 2, limitBytes: 3 } });
    pacer.asked(0);
    pacer.answered();
    for (let epoch = 1; epoch <= 100; epoch += 1) {
      expect(pacer.dueAtMs).toBe(epoch * 10);
      pacer.asked(epoch * 10 + 0.9);
      pacer.answered();
    }
  });

  it('makes up for a standstill at twice the pace, up to a bound', () => {
    const pacer = pacerOf(10);
    pacer.asked(0);
    pacer.answered();
    pacer.asked(45);
    pacer.answered();
    // Due were 10, 20, 30 and 40: one was asked for.
    const dueMs: (number | null)[] = [];
    for (let epoch = 0; epoch < 7; epoch += 1) {
      const next = pacer.dueAtMs ?? Number.NaN;
      dueMs.push(next);
      pacer.asked(next);
      pacer.answered();
    }
    expect(dueMs).toEqual([50, 55, 60, 65, 70, 75, 80]);
    // Of a long one, twenty intervals; each epoch at half the distance takes one half back.
    pacer.asked(5000);
    pacer.answered();
    let count = 0;
    for (; (pacer.dueAtMs ?? 0) < 5000 + 10 * 40; count += 1) {
      pacer.asked(pacer.dueAtMs ?? Number.NaN);
      pacer.answered();
    }
    expect(count).toBe(40 + 20 - 1);
  });

  it('makes up for nothing that a backlog held back', () => {
    const pacer = pacerOf(10);
    pacer.asked(0);
    pacer.answered();
    pacer.queueLevel(500);
    pacer.asked(900);
    pacer.answered();
    pacer.queueLevel(0);
    expect(pacer.dueAtMs).toBe(910);
  });

  it('takes any interval from a millisecond to hours, while running', () => {
    const pacer = pacerOf(1);
    pacer.asked(0);
    pacer.answered();
    expect(pacer.dueAtMs).toBe(1);
    pacer.setInterval(3 * 3600 * 1000);
    expect(pacer.dueAtMs).toBe(3 * 3600 * 1000);
    for (const bad of [0, -1, Number.NaN, Number.POSITIVE_INFINITY]) {
      expect(() => pacer.setInterval(bad)).toThrow(RangeError);
    }
  });

  it('doubles the interval with every checkpoint above the high watermark, up to a bound', () => {
    const pacer = pacerOf(25);
    expect(pacer.queueLevel(100)).toBe(true);
    const intervalsMs: number[] = [];
    for (let round = 0; round < 10; round += 1) {
      intervalsMs.push(pacer.effectiveIntervalMs);
      pacer.asked(round);
      pacer.answered();
    }
    expect(intervalsMs).toEqual([50, 100, 200, 400, 800, 1600, 1600, 1600, 1600, 1600]);
    // Between the watermarks nothing changes.
    expect(pacer.queueLevel(50)).toBe(false);
    expect(pacer.effectiveIntervalMs).toBe(1600);
    expect(pacer.queueLevel(10)).toBe(true);
    expect(pacer.effectiveIntervalMs).toBe(25);
  });

  it('never shortens an interval that is long already', () => {
    const pacer = pacerOf(600_000);
    pacer.queueLevel(500);
    expect(pacer.effectiveIntervalMs).toBe(600_000);
  });

  it('asks for none at the limit of the queue', () => {
    const pacer = pacerOf(25);
    pacer.queueLevel(1000);
    expect(pacer.dueAtMs).toBeNull();
    pacer.queueLevel(999);
    expect(pacer.dueAtMs).not.toBeNull();
  });
});

describe('output that waits', () => {
  /** A pacer whose first checkpoint was taken at 0. */
  function begun(minIntervalMs: number, pauseMs = 0): EpochPacer {
    const pacer = pacerOf(25, { minIntervalMs });
    pacer.asked(0);
    pacer.answered(pauseMs);
    return pacer;
  }

  it('ends the epoch early on a free link, and once', () => {
    const pacer = begun(5);
    expect(pacer.dueOnFreeLinkAtMs).toBe(25);
    pacer.outputWaiting();
    expect(pacer.dueOnFreeLinkAtMs).toBe(5);
    expect(pacer.dueAtMs).toBe(25);
    pacer.asked(5);
    expect(pacer.dueOnFreeLinkAtMs).toBeNull();
    pacer.answered();
    expect(pacer.dueOnFreeLinkAtMs).toBe(30);
  });

  it('counts nothing of what is said while a checkpoint is taken', () => {
    const pacer = begun(5);
    pacer.asked(25);
    pacer.outputWaiting();
    pacer.answered();
    expect(pacer.dueOnFreeLinkAtMs).toBe(50);
    pacer.outputWaiting();
    expect(pacer.dueOnFreeLinkAtMs).toBe(30);
  });

  it('does nothing when it is told not to, or is away again', () => {
    const pacer = begun(0);
    pacer.outputWaiting();
    expect(pacer.dueOnFreeLinkAtMs).toBe(25);
    pacer.setMinInterval(1);
    expect(pacer.dueOnFreeLinkAtMs).toBe(1);
    pacer.outputLeft();
    expect(pacer.dueOnFreeLinkAtMs).toBe(25);
    for (const bad of [-1, Number.NaN, Number.POSITIVE_INFINITY])
      expect(() => pacer.setMinInterval(bad)).toThrow(RangeError);
  });

  it('does nothing in a backlog, nor at the limit of the queue', () => {
    const pacer = begun(5);
    pacer.outputWaiting();
    pacer.queueLevel(100);
    expect(pacer.dueOnFreeLinkAtMs).toBe(50);
    pacer.queueLevel(1000);
    expect(pacer.dueOnFreeLinkAtMs).toBeNull();
  });

  it('answers a few requests at once after a quiet while, then keeps pauses apart', () => {
    const pauseMs = 4;
    const pacer = begun(5);
    const distancesMs: number[] = [];
    let atMs = 0;
    for (let epoch = 0; epoch < 100; epoch += 1) {
      pacer.outputWaiting();
      const dueMs = pacer.dueOnFreeLinkAtMs ?? Number.NaN;
      distancesMs.push(dueMs - atMs);
      atMs = dueMs;
      pacer.asked(atMs);
      pacer.answered(pauseMs);
    }
    // Every 5 ms it earns 1.25 and pays 4.
    const atOnce = Math.ceil(PAUSE_BURST_MS / (pauseMs - 5 * PAUSE_SHARE_MAX));
    expect(distancesMs.slice(0, atOnce)).toEqual(Array.from({ length: atOnce }, () => 5));
    const apart = distancesMs.slice(atOnce + 1);
    expect(Math.min(...apart)).toBeCloseTo(pauseMs / PAUSE_SHARE_MAX);
    expect(Math.max(...apart)).toBeCloseTo(pauseMs / PAUSE_SHARE_MAX);
  });

  it('makes up for one long pause, but never waits past the end of the interval', () => {
    const pacer = begun(5, PAUSE_BURST_MS + 10);
    pacer.outputWaiting();
    expect(pacer.dueOnFreeLinkAtMs).toBe(25);
    pacer.asked(25);
    pacer.answered();
    pacer.outputWaiting();
    // What was skipped took no time.
    expect(pacer.dueOnFreeLinkAtMs).toBe(10 / PAUSE_SHARE_MAX);
  });

  it('owes no more for pauses that the interval asked for than one of them', () => {
    const pacer = begun(5);
    for (let epoch = 1; epoch <= 100; epoch += 1) {
      pacer.asked(epoch * 25);
      pacer.answered(15);
    }
    pacer.setInterval(1000);
    pacer.outputWaiting();
    expect(pacer.dueOnFreeLinkAtMs).toBe(100 * 25 + 15 / PAUSE_SHARE_MAX);
  });
});
