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

  it('rests ever longer while copies are in vain, and not at all once they pay', () => {
    const policy = new AheadPolicy();
    policy.record(0, 1000);
    const restAfter = (pausePages: number): number => {
      expect(policy.isWorthwhile).toBe(true);
      policy.record(1000, pausePages);
      let rested = 0;
      while (!policy.isWorthwhile) {
        policy.record(0, 1000);
        rested += 1;
        expect(rested).toBeLessThan(100);
      }
      return rested;
    };
    const vain = [900, 900, 900].map((pages) => restAfter(pages));
    expect(vain).toEqual([...vain].sort((left, right) => left - right));
    expect(vain[2]).toBeGreaterThan(vain[0] ?? 0);
    expect(restAfter(100)).toBe(0);
    expect(restAfter(900)).toBe(vain[0]);
  });
});
