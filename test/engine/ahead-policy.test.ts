import { describe, expect, it } from 'vitest';
import { AheadPolicy, type CopiedEpoch } from '../../src/engine/ahead-policy.ts';

function epoch(aheadPages: number, pausePages: number, scanMs = 0.1): CopiedEpoch {
  return { aheadPages, pausePages, scanMs };
}

describe('AheadPolicy', () => {
  it('waits until there is something to copy', () => {
    const policy = new AheadPolicy();
    expect(policy.isWorthwhile).toBe(false);
    policy.record(epoch(0, 10));
    expect(policy.isWorthwhile).toBe(false);
    policy.record(epoch(0, 1000));
    expect(policy.isWorthwhile).toBe(true);
  });

  it('goes on while most pages stay as they were copied', () => {
    const policy = new AheadPolicy();
    policy.record(epoch(0, 1000));
    for (let at = 0; at < 5; at += 1) {
      expect(policy.isWorthwhile).toBe(true);
      policy.record(epoch(1000, 100));
    }
  });

  it('shrugs off a copy in vain now and then', () => {
    const policy = new AheadPolicy();
    policy.record(epoch(0, 1000));
    for (let at = 0; at < 60; at += 1) {
      expect(policy.isWorthwhile).toBe(true);
      policy.record(epoch(1000, at % 3 === 0 ? 900 : 10));
    }
  });

  it('rests when copies are in vain all the time, and comes back when they pay again', () => {
    const policy = new AheadPolicy();
    policy.record(epoch(0, 1000));
    let tried = 0;
    for (let at = 0; at < 400; at += 1) {
      if (policy.isWorthwhile) tried += 1;
      policy.record(epoch(policy.isWorthwhile ? 1000 : 0, 900));
    }
    expect(tried).toBeGreaterThan(5);
    expect(tried).toBeLessThan(40);
    let paid = 0;
    for (let at = 0; at < 100; at += 1) {
      const copies = policy.isWorthwhile;
      if (copies) paid += 1;
      policy.record(epoch(copies ? 1000 : 0, copies ? 10 : 1000));
    }
    expect(paid).toBeGreaterThan(60);
  });

  it('leaves it when a scan would take longer than the copies that it saves', () => {
    const policy = new AheadPolicy();
    policy.record(epoch(0, 300, 0.1));
    expect(policy.isWorthwhile).toBe(true);
    // A memory ten times as large: the same pages are not worth its scan, ten times as many are.
    for (let at = 0; at < 20; at += 1) policy.record(epoch(0, 300, 1));
    expect(policy.isWorthwhile).toBe(false);
    policy.record(epoch(0, 3000, 1));
    expect(policy.isWorthwhile).toBe(true);
  });

  it('copies a second round after a long first one', () => {
    const policy = new AheadPolicy();
    expect(policy.isWorthwhileAgain(0, 200)).toBe(false);
    expect(policy.isWorthwhileAgain(0, 16_000)).toBe(true);
    expect(policy.isWorthwhileAgain(16_000, 16_000)).toBe(false);
  });
});
