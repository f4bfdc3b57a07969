import { describe, expect, it } from 'vitest';
import { AheadPolicy, type CopiedEpoch } from '../../src/engine/ahead-policy.ts';

function epoch(aheadPages: number, pausePages: number, scanMs = 0.1): CopiedEpoch {
  return { rounds: aheadPages === 0 ? [] : [aheadPages], pausePages, scanMs };
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

  it('expects the next burst after an epoch between two, and nothing after many such epochs', () => {
    const policy = new AheadPolicy();
    policy.record(epoch(0, 1000));
    policy.record(epoch(12, 3));
    expect(policy.isWorthwhile).toBe(true);
    for (let at = 0; at < 8; at += 1) policy.record(epoch(policy.isWorthwhile ? 3 : 0, 12));
    expect(policy.isWorthwhile).toBe(false);
    // Too few pages to tell whether copying them was in vain.
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

  it('takes another round after a long one, unless rounds stay as long', () => {
    const policy = new AheadPolicy();
    const roundsOf = (found: number[]): number[] => {
      const left = [...found];
      return policy.copyAhead(() => left.shift() ?? Number.NaN);
    };
    expect(roundsOf([])).toEqual([]);
    policy.record(epoch(0, 1000));
    for (const [found, taken] of [
      [[200, 1], 1],
      [[16_000, 8000, 900, 1], 3],
      [[16_000, 15_000, 1], 2],
      [[2500, 64_000, 5000, 100, 1], 4],
      [[16_000, 8000, 4000, 2000, 1], 4],
    ] as const) {
      expect(roundsOf([...found])).toEqual(found.slice(0, taken));
    }
  });

  it('does not hold a burst that began during the first round against the rounds', () => {
    const policy = new AheadPolicy();
    policy.record(epoch(0, 8000));
    for (let at = 0; at < 10; at += 1) {
      expect(policy.isWorthwhile).toBe(true);
      policy.record({ rounds: [1100, 16_000, 3000], pausePages: 600, scanMs: 0.1 });
    }
  });

  it('waits for a pause after one was refused', () => {
    const policy = new AheadPolicy();
    policy.record(epoch(0, 8000));
    policy.recordRefusal();
    expect(policy.isWorthwhile).toBe(false);
    policy.record(epoch(0, 8000));
    expect(policy.isWorthwhile).toBe(true);
  });

  it('holds rounds for vain when the pause copies most of the first one again', () => {
    const policy = new AheadPolicy();
    policy.record(epoch(0, 8000));
    for (let at = 0; at < 4; at += 1) {
      expect(policy.isWorthwhile).toBe(true);
      policy.record({ rounds: [8000, 6000, 4800, 4700], pausePages: 4600, scanMs: 0.1 });
    }
    expect(policy.isWorthwhile).toBe(false);
  });
});
