/**
 * Goal: quantiles are never below the true one and at most 1/64 plus one resolution above it,
 * over the whole range. Method: compare with a sorted array.
 */
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Histogram } from '../../src/base/histogram.ts';

describe('Histogram', () => {
  it('answers quantiles within 1/64 of the sorted values', () => {
    fc.assert(
      fc.property(
        fc.array(
          fc.oneof(
            fc.double({ min: 0, max: 1, noNaN: true }),
            fc.double({ min: 0, max: 1e9, noNaN: true }),
            fc.integer({ min: 0, max: 40 }).map((power) => 2 ** power / 1000),
          ),
          { minLength: 1, maxLength: 200 },
        ),
        fc.double({ min: 0, max: 1, noNaN: true }),
        (values, q) => {
          const histogram = new Histogram();
          for (const value of values) histogram.record(value);
          const sorted = values.toSorted((a, b) => a - b);
          const exact = sorted[Math.max(1, Math.ceil(q * values.length)) - 1] ?? 0;
          const answer = histogram.quantile(q);
          expect(answer).toBeGreaterThanOrEqual(exact * (1 - 1e-9));
          expect(answer).toBeLessThanOrEqual(exact * (1 + 1 / 64) + histogram.resolution * 1.001);
          expect(histogram.max).toBe(sorted.at(-1));
        },
      ),
    );
  });

  it('is empty after reset and counts negatives as zero', () => {
    const histogram = new Histogram();
    expect(histogram.summary()).toEqual({ count: 0, p50: 0, p99: 0, max: 0 });
    histogram.record(-3);
    histogram.record(12);
    expect(histogram.count).toBe(2);
    expect(histogram.max).toBe(12);
    expect(histogram.mean).toBe(6);
    histogram.reset();
    expect(histogram.summary()).toEqual({ count: 0, p50: 0, p99: 0, max: 0 });
    expect(() => histogram.record(Number.NaN)).toThrow(/NaN/);
  });
});
