/** Goal: a thing's cost is told from its core's. Method: goes whose cost and core are known. */
import { describe, expect, it } from 'vitest';
import { Prng } from '../../src/base/prng.ts';
import { type Go, matchedRatio } from '../../bench/lib/matched.ts';

const GO_MS = 40;

/** Goes that cost `factor` of the reference on cores as slow as `slowness` says. */
function goes(count: number, factor: number, slowness: (index: number) => number): Go[] {
  return Array.from({ length: count }, (_, index) => {
    const value = slowness(index);
    return { took: GO_MS * factor * value, slowness: value };
  });
}

describe('the matched ratio', () => {
  it('is the cost of the thing, however slow the cores were', () => {
    const prng = new Prng(71);
    const anySlowness = (): number => 1 + prng.nextFloat();
    const reference = goes(2000, 1, anySlowness);
    const onSlowCores = goes(500, 1.1, () => 1.9);
    expect(matchedRatio(onSlowCores, reference)).toBeCloseTo(1.1, 2);
    const onAnyCores = goes(500, 1.1, anySlowness);
    expect(matchedRatio(onAnyCores, reference)).toBeCloseTo(1.1, 2);
    const forNothing = goes(500, 1, () => 1.9);
    expect(matchedRatio(forNothing, reference)).toBeCloseTo(1, 2);
  });

  it('hides no cost that comes and goes', () => {
    const reference = goes(100, 1, () => 1);
    const now = [...goes(90, 1, () => 1), ...goes(10, 3, () => 1)];
    expect(matchedRatio(now, reference)).toBeCloseTo(1.2);
  });

  it('takes the nearest there are, beyond all of them and where they are few', () => {
    const reference = goes(3, 1, (index) => 1 + index / 100);
    const slower = goes(1, 1, () => 5);
    expect(matchedRatio(slower, reference)).toBeCloseTo(5 / 1.01);
    const quicker = goes(1, 1, () => 0.5);
    expect(matchedRatio(quicker, reference)).toBeCloseTo(0.5 / 1.01);
  });

  it('is no number without anything to compare', () => {
    const one = goes(1, 1, () => 1);
    expect(matchedRatio([], one)).toBeNaN();
    expect(matchedRatio(one, [])).toBeNaN();
  });
});
