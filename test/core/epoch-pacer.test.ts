/** Goal: one checkpoint at a time, at the pace asked for, slower while the queue is full. */
import { describe, expect, it } from 'vitest';
import { AssertionError } from '../../src/base/assert.ts';
import { EpochPacer } from '../../src/core/epoch-pacer.ts';

const MARKS = { lowBytes: 10, highBytes: 100, limitBytes: 1000 };

describe('epoch pacer', () => {
  it('waits for the checkpoint before', () => {
    const pacer = new EpochPacer(25, MARKS);
    pacer.asked(0);
    expect(pacer.dueAtMs).toBeNull();
    expect(() => pacer.asked(1)).toThrow(AssertionError);
    pacer.answered();
    expect(pacer.dueAtMs).toBe(25);
  });

  it('keeps the pace when every checkpoint is asked for a little late', () => {
    const pacer = new EpochPacer(10, { lowBytes: 1, highBytes: 2, limitBytes: 3 });
    pacer.asked(0);
    pacer.answered();
    for (let epoch = 1; epoch <= 100; epoch += 1) {
      expect(pacer.dueAtMs).toBe(epoch * 10);
      pacer.asked(epoch * 10 + 0.9);
      pacer.answered();
    }
  });

  it('makes up for a standstill at twice the pace, up to a bound', () => {
    const pacer = new EpochPacer(10, MARKS);
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
    const pacer = new EpochPacer(10, MARKS);
    pacer.asked(0);
    pacer.answered();
    pacer.queueLevel(500);
    pacer.asked(900);
    pacer.answered();
    pacer.queueLevel(0);
    expect(pacer.dueAtMs).toBe(910);
  });

  it('takes any interval from a millisecond to hours, while running', () => {
    const pacer = new EpochPacer(1, MARKS);
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
    const pacer = new EpochPacer(25, MARKS);
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
    const pacer = new EpochPacer(600_000, MARKS);
    pacer.queueLevel(500);
    expect(pacer.effectiveIntervalMs).toBe(600_000);
  });

  it('asks for none at the limit of the queue', () => {
    const pacer = new EpochPacer(25, MARKS);
    pacer.queueLevel(1000);
    expect(pacer.dueAtMs).toBeNull();
    pacer.queueLevel(999);
    expect(pacer.dueAtMs).not.toBeNull();
  });
});
