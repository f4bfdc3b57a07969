/** Goal: growth is told from noise. Method: lines that are known, and a sawtooth. */
import { describe, expect, it } from 'vitest';
import { slopePerMinute } from '../../bench/lib/slope.ts';

const SAMPLE_MS = 5000;

function slopeOf(values: readonly number[]): number {
  return slopePerMinute(values.map((value, index) => ({ atMs: index * SAMPLE_MS, value })));
}

describe('the slope of a figure', () => {
  it('is what the figure grows in a minute', () => {
    expect(slopeOf([10, 11, 12, 13])).toBeCloseTo(12);
    expect(slopeOf([7, 7, 7])).toBe(0);
  });

  it('is next to nothing for a figure that goes up and down', () => {
    const sawtooth = Array.from({ length: 360 }, (_, index) => 100 + (index % 6));
    expect(Math.abs(slopeOf(sawtooth))).toBeLessThan(0.02);
  });

  it('is none where there is no line', () => {
    expect(slopeOf([])).toBe(0);
    expect(slopeOf([5])).toBe(0);
  });
});
