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

  it('shrugs off a copy in vain now and then', () => {
    const policy = new AheadPolicy();
    policy.record(0, 1000);
    for (let epoch = 0; epoch < 60; epoch += 1) {
      expect(policy.isWorthwhile).toBe(true);
      policy.record(1000, epoch % 3 === 0 ? 900 : 10);
    }
  });

  it('rests when copies are in vain all the time, and comes back when they pay again', () => {
    const policy = new AheadPolicy();
    policy.record(0, 1000);
    let tried = 0;
    for (let epoch = 0; epoch < 400; epoch += 1) {
      if (policy.isWorthwhile) tried += 1;
      policy.record(policy.isWorthwhile ? 1000 : 0, 900);
    }
    expect(tried).toBeGreaterThan(5);
    expect(tried).toBeLessThan(40);
    let paid = 0;
    for (let epoch = 0; epoch < 100; epoch += 1) {
      const copies = policy.isWorthwhile;
      if (copies) paid += 1;
      policy.record(copies ? 1000 : 0, copies ? 10 : 1000);
    }
    expect(paid).toBeGreaterThan(60);
  });

  it('copies a second round after a long first one', () => {
    const policy = new AheadPolicy();
    expect(policy.isWorthwhileAgain(0, 200)).toBe(false);
    expect(policy.isWorthwhileAgain(0, 16_000)).toBe(true);
    expect(policy.isWorthwhileAgain(16_000, 16_000)).toBe(false);
  });
});
