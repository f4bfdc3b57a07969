import { describe, expect, it } from 'vitest';
import { AheadPolicy } from '../../src/engine/ahead-policy.ts';

describe('AheadPolicy', () => {
  it('waits until there is something to copy', () => {
    const policy = new AheadPolicy();
    expect(policy.isWorthwhile).toBe(false);
    policy.record(0, 10);
    expect(policy.isWorthwhile).toBe(false);
    policy.record(0, 1000);
    expect(policy.isWorthwhile).toBe(true);
  });

  it('goes on while most pages stay as they were copied', () => {
    const policy = new AheadPolicy();
    policy.record(0, 1000);
    for (let epoch = 0; epoch < 5; epoch += 1) {
      expect(policy.isWorthwhile).toBe(true);
      policy.record(1000, 100);
    }
  });

  it('rests after a copy that was mostly in vain, and tries again later', () => {
    const policy = new AheadPolicy();
    policy.record(0, 1000);
    policy.record(1000, 900);
    let rested = 0;
    while (!policy.isWorthwhile) {
      policy.record(0, 1000);
      rested += 1;
      expect(rested).toBeLessThan(100);
    }
    expect(rested).toBeGreaterThan(1);
  });
});
