/** Goal: pages are encoded within the pause only where the machine's state takes longer anyway. */
import { describe, expect, it } from 'vitest';
import { BesidePolicy } from '../../src/engine/beside-policy.ts';

describe('BesidePolicy', () => {
  it('knows nothing before the first epoch', () => {
    const policy = new BesidePolicy();
    expect(policy.fits(1)).toBe(false);
    policy.record({ pages: 0, encodeMs: 0, stateMs: 3 });
    expect(policy.fits(1)).toBe(false);
  });

  it('fits a small epoch beside a slow state, and no large one', () => {
    const policy = new BesidePolicy();
    for (let epoch = 0; epoch < 30; epoch += 1)
      policy.record({ pages: 100, encodeMs: 0.5, stateMs: 2 });
    expect(policy.fits(100)).toBe(true);
    expect(policy.fits(199)).toBe(true);
    expect(policy.fits(210)).toBe(false);
  });

  it('does without where the state is there at once, or comes to be', () => {
    const policy = new BesidePolicy();
    for (let epoch = 0; epoch < 30; epoch += 1)
      policy.record({ pages: 100, encodeMs: 0.5, stateMs: 0.1 });
    expect(policy.fits(100)).toBe(false);
    for (let epoch = 0; epoch < 30; epoch += 1)
      policy.record({ pages: 100, encodeMs: 0.5, stateMs: 2 });
    expect(policy.fits(100)).toBe(true);
    for (let epoch = 0; epoch < 10; epoch += 1)
      policy.record({ pages: 100, encodeMs: 5, stateMs: 2 });
    expect(policy.fits(100)).toBe(false);
  });
});
